/* SPDX-License-Identifier: Apache-2.0 */
/* TAP for unit tests written in C: no plan needed, the number of tests comes last.
 *
 *      int main(void)
 *      {
 *          ok(x > 0, "x is %d", x);
 *          is_str(err.text, "layer 'a': No such file or directory", "the text names the layer");
 *          return done_testing();
 *      }
 *
 * Every check returns whether it passed, so that one that makes the rest pointless can end the test. A
 * failure says where it is and what was seen. Output is unbuffered: what a crash cuts off is not lost, and
 * children that fork() print nothing twice. */
#ifndef CRICKET_TAP_H
#define CRICKET_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    int n, failed;
} tap_state;

__attribute__((format(printf, 1, 2), unused)) static void diag(const char *fmt, ...)
{
    char buf[4096];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    for (char *line = buf, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        fprintf(stderr, "# %s\n", line);
    }
}

/* One line of TAP; '#' and newlines of the description are written so that they mean nothing to the reader. */
__attribute__((format(printf, 4, 0), unused)) static bool tap_ok_v(bool passed, const char *file, int line,
                                                                   const char *fmt, va_list ap)
{
    char what[1024];

    vsnprintf(what, sizeof(what), fmt, ap);
    for (char *c = what; *c; c++)
        if (*c == '\n' || *c == '#')
            *c = *c == '\n' ? ' ' : '=';
    if (tap_state.n == 0)
        setvbuf(stdout, NULL, _IONBF, 0);
    printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_state.n, what);
    if (!passed) {
        tap_state.failed++;
        diag("failed at %s:%d: %s", file, line, what);
    }
    return passed;
}

__attribute__((format(printf, 4, 5), unused)) static bool tap_ok(bool passed, const char *file, int line,
                                                                 const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    bool r = tap_ok_v(passed, file, line, fmt, ap);
    va_end(ap);
    return r;
}

__attribute__((format(printf, 5, 6), unused)) static bool tap_is_str(const char *got, const char *want, const char *file,
                                                                     int line, const char *fmt, ...)
{
    bool same = got && want ? strcmp(got, want) == 0 : got == want;
    va_list ap;

    va_start(ap, fmt);
    (void)tap_ok_v(same, file, line, fmt, ap);
    va_end(ap);
    if (!same)
        diag("     got: %s%s%s\nexpected: %s%s%s", got ? "'" : "", got ? got : "NULL", got ? "'" : "",
             want ? "'" : "", want ? want : "NULL", want ? "'" : "");
    return same;
}

__attribute__((format(printf, 5, 6), unused)) static bool tap_is_int(intmax_t got, intmax_t want, const char *file,
                                                                     int line, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)tap_ok_v(got == want, file, line, fmt, ap);
    va_end(ap);
    if (got != want)
        diag("     got: %jd\nexpected: %jd", got, want);
    return got == want;
}

__attribute__((format(printf, 7, 8), unused)) static bool tap_is_mem(const void *got, size_t got_len, const void *want,
                                                                     size_t want_len, const char *file, int line,
                                                                     const char *fmt, ...)
{
    const unsigned char *g = got, *w = want;
    size_t i = 0, min = got_len < want_len ? got_len : want_len;
    va_list ap;

    while (i < min && g[i] == w[i])
        i++;
    bool same = got_len == want_len && i == got_len;
    va_start(ap, fmt);
    (void)tap_ok_v(same, file, line, fmt, ap);
    va_end(ap);
    if (!same)
        diag("     got: %zu bytes\nexpected: %zu bytes\ndifferent from byte %zu on", got_len, want_len, i);
    return same;
}

#define ok(cond, ...) tap_ok((cond), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, want, ...) tap_is_str((got), (want), __FILE__, __LINE__, __VA_ARGS__)
#define is_int(got, want, ...) tap_is_int((intmax_t)(got), (intmax_t)(want), __FILE__, __LINE__, __VA_ARGS__)
#define is_mem(got, got_len, want, want_len, ...) \
    tap_is_mem((got), (got_len), (want), (want_len), __FILE__, __LINE__, __VA_ARGS__)

/* One test that cannot run here, with the reason. */
__attribute__((format(printf, 1, 2), unused)) static void skip(const char *fmt, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    if (tap_state.n == 0)
        setvbuf(stdout, NULL, _IONBF, 0);
    printf("ok %d # SKIP %s\n", ++tap_state.n, why);
}

/* None of this program's tests can run here. Does not return. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void skip_all(const char *fmt, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    printf("1..0 # SKIP %s\n", why);
    exit(0);
}

/* Something without which nothing else makes sense. Does not return. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void bail_out(const char *fmt, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    printf("Bail out! %s\n", why);
    exit(255);
}

/* The plan; what main() returns. */
__attribute__((unused)) static int done_testing(void)
{
    printf("1..%d\n", tap_state.n);
    if (tap_state.failed)
        diag("%d of %d failed", tap_state.failed, tap_state.n);
    return tap_state.failed ? 1 : 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* src/err, src/mem, src/str, src/utf8, src/list, src/log: what everybody stands on. */
#include "tap.h"

#include "err.h"
#include "list.h"
#include "log.h"
#include "mem.h"
#include "str.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>

static void test_err(void)
{
    struct err e = ERR_INIT;
    char big[ERR_TEXT_MAX * 2];

    is_int(err_set(&e, -EINVAL, "mode %d", 7), -EINVAL, "err_set returns the code");
    is_str(e.text, "mode 7", "its text");
    is_int(err_note(&e, "container %s", "4f1c"), -EINVAL, "err_note keeps the code");
    is_str(e.text, "container 4f1c: mode 7", "and puts its words before");
    errno = ENOENT;
    err_clear(&e);
    is_int(e.code, 0, "a cleared error has no code");
    errno = ENOENT;
    is_int(err_sys(&e, "layer '%s'", "a"), -ENOENT, "err_sys takes errno");
    is_str(e.text, "layer 'a': No such file or directory", "and names it");
    ok(err_rpc(&e, GRPC_NOT_FOUND, "no container '%s'", "x") < 0, "err_rpc returns a negative errno");
    is_int(e.grpc, GRPC_NOT_FOUND, "and keeps the status");
    is_int(err_set(NULL, -EIO, "lost"), -EIO, "a NULL error is allowed");

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    err_clear(&e);
    err_set(&e, -EIO, "%s", big);
    ok(strlen(e.text) < ERR_TEXT_MAX, "a text that is too long is cut");
    err_note(&e, "%s", "who");
    ok(str_starts(e.text, "who: xxx"), "a note before a text that fills the room is kept");
    err_set(&e, -EIO, "a\n\x01\xff" "b");
    err_clean(&e);
    is_str(e.text, "a\n??b", "a cleaned text: bad UTF-8 and control characters are gone, lines are kept");
}

static void test_str(void)
{
    auto_str struct str s = STR_INIT;
    long long n = -7;

    is_str(str_c(&s), "", "an empty buffer is an empty string");
    for (int i = 0; i < 1000; i++)
        str_printf(&s, "%d,", i);
    is_int(s.len, 3890, "a thousand numbers");
    is_int(strlen(s.p), s.len, "are NUL terminated");
    str_consume(&s, 3886);
    is_str(s.p, "999,", "the rest after consuming");
    str_reset(&s);
    str_add(&s, "a\0b", 3);
    is_mem(s.p, s.len, "a\0b", 3, "NUL bytes are kept");
    auto_free char *taken = str_take(&s);
    ok(taken && !s.p && !s.len, "taken: empty again");
    auto_free char *nothing = str_take(&s);
    is_str(nothing, "", "taking nothing gives an empty string");

    ok(str_starts("abc", "ab") && !str_starts("ab", "abc"), "str_starts");
    ok(str_ends("abc", "bc") && !str_ends("bc", "abc"), "str_ends");

    static const struct {
        const char *s;
        long long want;
    } sizes[] = { { "5", 5 }, { "16MiB", 16 << 20 }, { "64kB", 64000 }, { "1GiB", 1 << 30 }, { "0", 0 } };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        ok(str_parse_size(sizes[i].s, &n) == 0 && n == sizes[i].want, "size '%s' is %lld", sizes[i].s, sizes[i].want);
    static const char *const bad[] = { "", "x", "5X", "-", "5 5", "9999999999999999999999", "16MiBB", "16ExaB" };
    n = -7;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(str_parse_size(bad[i], &n) == -EINVAL && n == -7, "size '%s' is refused", bad[i]);
    static const struct {
        const char *s;
        long long want;
    } times[] = { { "30s", 30000 }, { "5m", 300000 }, { "1h", 3600000 }, { "250ms", 250 } };
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        ok(str_parse_time(times[i].s, &n) == 0 && n == times[i].want, "time '%s' is %lld ms", times[i].s, times[i].want);
    n = -7;
    ok(str_parse_time("5 parsecs", &n) == -EINVAL && n == -7, "a time in parsecs is refused");
}

static void test_utf8(void)
{
    static const struct {
        const char *s;
        bool good;
    } t[] = {
        { "", true }, { "plain", true }, { "\xc3\xa4", true }, { "\xe2\x82\xac", true }, { "\xf0\x9f\xa6\x97", true },
        { "\xf4\x8f\xbf\xbf", true }, { "\x80", false }, { "\xc3", false }, { "\xc0\x80", false },
        { "\xe0\x80\x80", false }, { "\xed\xa0\x80", false }, { "\xf4\x90\x80\x80", false }, { "\xff", false },
        { "a\xf0\x9f\xa6", false },
    };
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        ok(utf8_ok(t[i].s, strlen(t[i].s)) == t[i].good, "utf8: case %zu is %s", i, t[i].good ? "good" : "bad");
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        auto_free char *c = mem_strdup(t[i].s);
        utf8_clean(c, strlen(c));
        ok(utf8_ok(c, strlen(c)) && strlen(c) == strlen(t[i].s), "utf8: case %zu is good when cleaned", i);
    }
}

struct thing {
    int n;
    struct list link;
};

static void test_list(void)
{
    struct list head = LIST_INIT(head);
    struct thing things[5], *t;
    int sum = 0;

    ok(list_empty(&head), "a new list is empty");
    for (int i = 0; i < 5; i++) {
        things[i].n = i;
        list_add_tail(&head, &things[i].link);
    }
    list_each(t, &head, struct thing, link)
        if (t->n % 2)
            list_del(&t->link);
    list_each(t, &head, struct thing, link)
        sum = sum * 10 + t->n;
    is_int(sum, 24, "in order, without what was removed on the way (0, 2, 4)");
    list_del(&things[1].link);
    ok(list_empty(&things[1].link), "removing twice does no harm");
    ok(list_first(&head, struct thing, link) == &things[0], "the first");
}

static void test_mem(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    {
        auto_fd int mine = fd;
        ok(mine >= 0, "an open descriptor");
    }
    ok(fcntl(fd, F_GETFD) < 0 && errno == EBADF, "auto_fd closed it");
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    {
        auto_fd int mine = fd;
        is_int(take_fd(&mine), fd, "take_fd gives it away");
    }
    ok(fcntl(fd, F_GETFD) >= 0, "and it stays open");
    is_int(fd_close(fd), -1, "fd_close returns -1");
    ok(!mem_strdup(NULL), "a copy of no string is none");
    auto_free char *copy = mem_dup("ab", 2);
    is_str(copy, "ab", "mem_dup ends with NUL");
}

static void test_log(void)
{
    enum log_level l = LOG_LEVEL_ERROR;

    ok(log_parse_level("Debug", &l) == 0 && l == LOG_LEVEL_DEBUG, "level in any case");
    ok(log_parse_level("loud", &l) == -EINVAL && l == LOG_LEVEL_DEBUG, "an unknown level is refused");
}

int main(void)
{
    test_err();
    test_str();
    test_utf8();
    test_list();
    test_mem();
    test_log();
    return done_testing();
}

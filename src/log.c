/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static enum log_level max_level = LOG_LEVEL_INFO;
static const char *const names[] = { "error", "warn", "info", "debug" };

int log_parse_level(const char *s, enum log_level *ret)
{
    for (int i = 0; i <= LOG_LEVEL_DEBUG; i++) {
        if (strcasecmp(s, names[i]) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
    return names[level];
}

void log_set_level(enum log_level level)
{
    max_level = level;
}

bool log_enabled(enum log_level level)
{
    return level <= max_level;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    char buf[2048];
    struct timespec ts;
    struct tm tm;
    va_list ap;
    size_t n;
    int saved = errno;

    if (level > max_level)
        return;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    n = strftime(buf, sizeof buf, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(buf + n, sizeof buf - n, ".%03ldZ level=%s ", ts.tv_nsec / 1000000,
                          names[level]);
    va_start(ap, fmt);
    int r = vsnprintf(buf + n, sizeof buf - n, fmt, ap);
    va_end(ap);
    if (r > 0)
        n += (size_t)r < sizeof buf - n - 1 ? (size_t)r : sizeof buf - n - 2;
    for (size_t i = 0; i < n; i++)   /* one event, one line; names go no terminal's way */
        if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
            buf[i] = ' ';
    buf[n++] = '\n';
    (void)!write(STDERR_FILENO, buf, n);
    errno = saved;
}

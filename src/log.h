/* SPDX-License-Identifier: Apache-2.0 */
/* logfmt lines on stderr: `time level=info op=stop ctr=4f1c ...`. One line per event worth finding
 * later. Names that come from outside are quoted ('%s'). Never secrets, environment variables or
 * file contents. */
#ifndef CRICKET_LOG_H
#define CRICKET_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* "error", "warn", "info", "debug" (any case): 0, or -EINVAL. */
int log_parse_level(const char *s, enum log_level *ret);
const char *log_level_name(enum log_level level);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) \
    do { \
        if (log_enabled(LOG_LEVEL_DEBUG)) \
            log_line(LOG_LEVEL_DEBUG, __VA_ARGS__); \
    } while (0)

#endif

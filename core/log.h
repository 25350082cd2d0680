/* log.h - one line a fact, to stderr: time, level, text.  The one who decides logs, once.
 *
 * Level and stream are process-wide (the log and the metrics are the only globals).  Thread-safe: a line is one
 * write(2). */
#ifndef CORE_LOG_H
#define CORE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(int level);      /* lines above it are dropped; LOG_INFO at start */
int log_parse_level(const char *s); /* "error", "warn", "info", "debug"; -1: none of these */

__attribute__((format(printf, 2, 3))) void log_line(int level, const char *fmt, ...);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif

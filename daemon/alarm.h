/* alarm.h - one-shot timers that can be dropped at any moment.  Loop thread.
 *
 * A uv timer's memory must live until its close callback; here the timer owns itself, so its holder may die first. */
#ifndef DAEMON_ALARM_H
#define DAEMON_ALARM_H

#include <stdint.h>
#include <uv.h>

struct alarm;

/* Calls fn(arg) once, after ms.  *slot is the alarm until it has rung or alarm_clear; one that was set before is cleared.
 * Out of memory: no alarm is set and *slot is NULL. */
void alarm_set(uv_loop_t *loop, struct alarm **slot, uint64_t ms, void (*fn)(void *arg), void *arg);
void alarm_clear(struct alarm **slot); /* nothing set is fine */

#endif

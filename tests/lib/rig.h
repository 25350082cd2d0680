/* rig.h - the real engine on a small random model, and what came out of it.  The test's own thread is the loop.
 *
 * What an answer says is fixed by its request, so every answer is compared with the one a quiet engine gives. */
#ifndef TESTS_LIB_RIG_H
#define TESTS_LIB_RIG_H

#include <semaphore.h>

#include "daemon/engine.h"
#include "tests/lib/small.h"

enum { RIG_IDS = 512 };

/* Opened and closed by the test's setup. */
extern struct small rig_small;

struct answer_seen {
    int n_begin, n_tokens, n_end; /* events */
    int n, finish, status, matched, last;
    int order; /* of its END among all */
    int closed_at;
    int32_t tok[SMALL_CTX];
    uint8_t phase[SMALL_CTX];
    char text[256];
    struct engine_figures figures;
};

struct rig {
    struct engine *engine;
    sem_t woken;
    int n_ended;
    struct answer_seen seen[RIG_IDS]; /* [id + choice] */
};

/* F32, one thread, a draft that is the target, the prefix cache on. */
struct engine_opts rig_opts(int sessions, int queue);
struct rig *rig_open(struct engine_opts o);
void rig_close(struct rig *r);

/* Takes what has come; fails the test when events are out of order. */
void rig_take_all(struct rig *r);
/* Takes event by event until n tokens of answer id are there, and no more: what has come since stops the engine when the outbox is
 * full, so it is not far ahead. */
void rig_take_tokens(struct rig *r, int id, int n);
/* Sleeps until something comes, and takes it. */
void rig_wait(struct rig *r);
/* What comes out of the engine within so many milliseconds. */
void rig_listen(struct rig *r, int ms);

#define RIG_UNTIL(r, condition)                                                                              \
    for (rig_take_all(r); !(condition);)                                                                     \
    rig_wait(r)

/* Prompts differ by id; half of them begin alike. */
struct engine_request *rig_request(int id, int n_prompt, int max_tokens);
int32_t *rig_copy(const int32_t *p, int n); /* n ids in memory of their own, for a request */
void rig_start(struct rig *r, struct engine_request *q);

/* The same request q on an engine with nothing else to do and no draft gives what seen[id] holds. */
void rig_same_text(const struct rig *r, int id, struct engine_request *q);
/* An answer that ended by itself, with all its n tokens. */
void rig_whole(const struct rig *r, int id, int n);
/* Fails where the engine keeps a processor busy. */
void rig_sleeps(void);

#endif

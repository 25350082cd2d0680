/* synthetic.c - see synthetic.h. */
#include "daemon/synthetic.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draft/draft.h"
#include "draw/draw.h"
#include "verifier/verifier.h"

enum { DOMAIN = 0x73796e74 }; /* "synt": the coins are none of the draw's words */

int synthetic_parse(struct synthetic *s, const char *text, struct err *e)
{
    const char *p = text;
    char *end;
    *s = (struct synthetic){0};
    for (;;) {
        float rate = strtof(p, &end);
        if (end == p || !(rate >= 0 && rate <= 1) || (*end && *end != ','))
            return err_set(
                e, ST_INPUT,
                "--synthetic-acceptance takes rates in 0..1, of depth 1 and on, such as .80,.75,.70, not "
                "'%.100s'",
                text);
        if (s->n == SYNTHETIC_MAX)
            return err_set(e, ST_INPUT, "--synthetic-acceptance takes at most %d rates: a tree is no deeper",
                           SYNTHETIC_MAX);
        s->rate[s->n++] = rate;
        if (!*end)
            return 0;
        p = end + 1;
    }
}

int synthetic_is(const struct synthetic *s, const float *rate, size_t n)
{
    if (n != (size_t) s->n)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (rate[i] != s->rate[i])
            return 0;
    return 1;
}

void synthetic_say(const struct synthetic *s, char *text, size_t bytes)
{
    size_t at = 0;
    *text = 0;
    for (int32_t i = 0; i < s->n && at < bytes; i++)
        at += (size_t) snprintf(text + at, bytes - at, "%s%.4g", i ? "," : "", (double) s->rate[i]);
}

/* FNV-1a: the rates are part of what a text depends on. */
static uint32_t hash_rates(const struct synthetic *s)
{
    const unsigned char *p = (const unsigned char *) s->rate;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < (size_t) s->n * sizeof *s->rate; i++)
        h = (h ^ p[i]) * 16777619u;
    return h;
}

void synthetic_mark(const struct synthetic *s, char *fingerprint, size_t bytes)
{
    size_t n = strlen(fingerprint);
    if (s->n)
        snprintf(fingerprint + n, bytes - n, "-synthetic-%08" PRIx32, hash_rates(s));
}

int synthetic_keeps(const struct synthetic *s, uint64_t seed, int32_t choice, int64_t pos, int32_t depth)
{
    if (depth < 1 || depth > s->n)
        return 0;
    const uint32_t counter[4] = {0, (uint32_t) pos, (uint32_t) choice, DOMAIN};
    const uint32_t key[2] = {(uint32_t) seed, (uint32_t) (seed >> 32)};
    uint32_t word[4];
    draw_philox(counter, key, word);
    return ((double) word[0] + 0.5) * 0x1p-32 < (double) s->rate[depth - 1];
}

void synthetic_tell(const struct synthetic *s, const struct draft_seq *guess, const struct draw_params *draw,
                    int64_t pos, struct verifier_told *out)
{
    int32_t at = -1, best;
    out->n = 0;
    for (;;) {
        out->n_other = draft_weighed(guess, at, &best, out->other, VERIFIER_OTHER_MAX);
        if (best < 0 || !synthetic_keeps(s, draw->seed, draw->choice, pos + out->n, out->n + 1))
            return;
        out->tok[out->n++] = out->other[0];
        at = best;
    }
}

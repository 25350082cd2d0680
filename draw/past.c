/* past.c - which tokens a text holds, and how often: an open hash over a list of distinct tokens.
 *
 * Room is made once, at admission, for as many distinct tokens as the text can have; a draw walks the list, not the table.
 * Counts outside the text (a branch's guesses) are never written here: they belong to one row. */
#include "draw/internal.h"

#include <stdlib.h>

struct draw_past {
    struct draw_count *list; /* owns; (n) distinct tokens as they first came */
    int32_t *slot;           /* owns; (mask + 1) index into list + 1; 0: free */
    uint32_t mask;
    int32_t n, room;
};

static int is_penalised(const struct draw_params *p)
{
    return p->repetition != 1 || p->presence != 0 || p->frequency != 0;
}

int draw_past_new(struct draw_past **out, const struct draw_params *p, int32_t room)
{
    *out = NULL;
    if (!is_penalised(p))
        return 0;
    struct draw_past *past = calloc(1, sizeof *past);
    if (!past)
        return ST_NOMEM;
    uint32_t slots = 16;
    while (slots < (uint32_t) room * 2 && slots < 1u << 30)
        slots *= 2;
    past->mask = slots - 1;
    past->room = room;
    past->list = malloc((size_t) room * sizeof *past->list);
    past->slot = calloc(slots, sizeof *past->slot);
    if (!past->list || !past->slot) {
        draw_past_free(past);
        return ST_NOMEM;
    }
    *out = past;
    return 0;
}

void draw_past_free(struct draw_past *past)
{
    if (!past)
        return;
    free(past->list);
    free(past->slot);
    free(past);
}

/* The slot that holds tok, or the free one where it would go. */
static uint32_t find(const struct draw_past *past, int32_t tok)
{
    uint32_t at = (uint32_t) tok * 0x9E3779B1u;
    at = (at ^ at >> 15) & past->mask;
    while (past->slot[at] && past->list[past->slot[at] - 1].tok != tok)
        at = (at + 1) & past->mask;
    return at;
}

void draw_past_add(struct draw_past *past, int32_t tok, int output)
{
    if (!past)
        return;
    uint32_t at = find(past, tok);
    if (!past->slot[at]) {
        if (past->n == past->room)
            return; /* more distinct tokens than the text has: not by this contract */
        past->list[past->n] = (struct draw_count){tok, 0};
        past->slot[at] = ++past->n;
    }
    past->list[past->slot[at] - 1].output += output != 0;
}

int32_t draw_past_list(const struct draw_past *past, const struct draw_count **list)
{
    *list = past ? past->list : NULL;
    return past ? past->n : 0;
}

const struct draw_count *draw__past_find(const struct draw_past *past, int32_t tok)
{
    int32_t i = past ? past->slot[find(past, tok)] : 0;
    return i ? &past->list[i - 1] : NULL;
}

int32_t draw_past_output(const struct draw_past *past, int32_t tok)
{
    const struct draw_count *c = draw__past_find(past, tok);
    return c ? c->output : 0;
}

/* draw.c - what a draw costs over Qwen3's vocabulary, one thread: greedy, with cuts, over everything; with penalties; logprobs.
 *
 * draw [REPEATS]: the best of so many, in microseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "draw/draw.h"
#include "tests/lib/synth.h"

enum { VOCAB = 151669, TEXT = 4000, PROMPT = 1000 };

static float logits[VOCAB];

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

static double draw_us(const struct draw_params *p, const struct draw_seen *seen, struct draw_scratch *x,
                      int repeats)
{
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        struct draw_state s = {.pos = i};
        struct draw_logprobs lp;
        int32_t tok;
        double t = now_us();
        if (p->logprobs)
            draw_logprobs(p, &s, seen, logits, VOCAB, x, 5, &lp);
        else
            draw_pick(p, &s, seen, logits, VOCAB, x, &tok);
        t = now_us() - t;
        best = t < best ? t : best;
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct draw_params p;
    } row[] = {
        {"greedy", {.top_p = 1, .repetition = 1}},
        {"T 0.6 top_k 20 top_p 0.95", {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .repetition = 1}},
        {"T 1", {.temperature = 1, .top_p = 1, .repetition = 1}},
        {"T 1, penalties", {.temperature = 1, .top_p = 1, .repetition = 1.1f, .presence = 0.5f}},
        {"logprobs, 5 best", {.top_p = 1, .repetition = 1, .logprobs = 1, .top_logprobs = 5}},
    };
    int repeats = argc > 1 ? atoi(argv[1]) : 100;
    uint64_t dice = 1;
    struct draw_scratch *x = draw_scratch_new(VOCAB);
    for (int v = 0; v < VOCAB; v++)
        logits[v] = 2 * (synth_uniform(&dice) + synth_uniform(&dice) + synth_uniform(&dice));
    for (size_t i = 0; i < sizeof row / sizeof *row && x; i++) {
        struct draw_seen seen = {0};
        struct draw_past *past;
        if (draw_past_new(&past, &row[i].p, TEXT))
            return 1;
        for (int k = 0; k < TEXT; k++)
            draw_past_add(past, (int32_t) ((synth_next(&dice) >> 33) % VOCAB), k >= PROMPT);
        seen.past = past;
        printf("%-28s %7.0f us\n", row[i].name, draw_us(&row[i].p, &seen, x, repeats));
        draw_past_free(past);
    }
    draw_scratch_free(x);
    return 0;
}

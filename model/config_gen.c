/* config_gen.c - generation_config.json, or the same fields of config.json: what a request that leaves a parameter open gets. */
#include "model/config_impl.h"

int config__read_eos(const struct config__doc *d, int32_t vocab, struct gen_config *g, struct err *e)
{
    const json_t *v = config__field(d, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
    if (n > CONFIG_EOS_MAX || (json_is_array(v) && n == 0))
        return err_set(e, ST_FORMAT, "%s: eos_token_id lists %zu ids; expected 1 to %d", d->label, n,
                       CONFIG_EOS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return err_set(e, ST_FORMAT, "%s: eos_token_id is %s; expected ids from 0 to %d (vocab_size - 1)",
                           d->label, model__show(id).s, vocab - 1);
        g->eos[i] = (int32_t) json_integer_value(id);
    }
    g->n_eos = (int32_t) n;
    return 0;
}

static int read_sampling(const struct config__doc *d, struct gen_config *g, struct err *e)
{
    int sample, st = config__bool(d, "do_sample", 1, &sample, e);
    g->has_temperature = config__field(d, "temperature") != NULL;
    g->has_top_k = config__field(d, "top_k") != NULL;
    g->has_top_p = config__field(d, "top_p") != NULL;
    g->has_min_p = config__field(d, "min_p") != NULL;
    if (!st && g->has_temperature)
        st = config__float(d, "temperature", 0, 0, 100, &g->temperature, e);
    if (!st && g->has_top_k)
        st = config__int(d, "top_k", 0, INT32_MAX, &g->top_k, e);
    if (!st && g->has_top_p)
        st = config__float(d, "top_p", 0, 1, 1, &g->top_p, e);
    if (!st && g->has_min_p)
        st = config__float(d, "min_p", 0, 0, 1, &g->min_p, e);
    if (!st && !sample) {
        g->has_temperature = 1;
        g->temperature = 0;
    }
    return st;
}

/* A penalty of 1 changes nothing: the file leaves it open. */
static int read_penalty(const struct config__doc *d, struct gen_config *g, struct err *e)
{
    float x = 1;
    int st = 0;
    if (config__field(d, "repetition_penalty"))
        st = config__float(d, "repetition_penalty", 0, 1, 100, &x, e);
    g->has_repetition_penalty = x != 1;
    g->repetition_penalty = x;
    return st;
}

int config__read_gen(const struct config__doc *d, int32_t vocab, struct gen_config *g, struct err *e)
{
    int st = read_sampling(d, g, e);
    if (!st)
        st = read_penalty(d, g, e);
    return st ? st : config__read_eos(d, vocab, g, e);
}

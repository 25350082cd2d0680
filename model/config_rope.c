/* config_rope.c - rotary positions: plain, or stretched by YaRN.
 *
 * Source: transformers' rope_utils (_compute_yarn_parameters); both spellings, rope_scaling beside rope_theta (4) and
 * rope_parameters (5).  A file that gives both must say the same twice.  Other kinds of scaling and partial rotation are
 * refused by name, and so is a field of YaRN that this build does not know: it would change the words without a sign. */
#include <stdio.h>
#include <string.h>

#include "core/math.h"
#include "model/config_impl.h"

static const char *rope_words(const char *type)
{
    static const struct {
        const char *type, *words;
    } list[] = {
        {"linear", "linear position scaling"},
        {"dynamic", "dynamic NTK scaling"},
        {"longrope", "LongRoPE"},
        {"llama3", "Llama 3 scaling"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(type, list[i].type) == 0)
            return list[i].words;
    return "this rope type";
}

/* --- YaRN --- */

enum { FACTOR_MAX = 1024, BETA_MAX = 1 << 20 };

static int check_yarn_keys(const struct config__doc *rope, struct err *e)
{
    static const char *const known[] = {"rope_type",        "type",
                                        "rope_theta",       "partial_rotary_factor",
                                        "factor",           "original_max_position_embeddings",
                                        "attention_factor", "mscale",
                                        "mscale_all_dim",   "beta_fast",
                                        "beta_slow",        "truncate"};
    const char *key;
    json_t *v;
    json_object_foreach(rope->root, key, v)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], key) != 0)
            i++;
        if (i == sizeof known / sizeof *known && !json_is_null(v))
            return err_set(e, ST_UNSUPPORTED,
                           "%s: %s is %s: this field of YaRN is not served; expected rope_theta, factor, "
                           "original_max_position_embeddings, attention_factor, mscale, mscale_all_dim, "
                           "beta_fast, beta_slow or truncate",
                           rope->label, model__quote(key).s, model__show(v).s);
    }
    return 0;
}

/* An absent (or null) number stays what it is. */
static int maybe_float(const struct config__doc *d, const char *key, double hi, float *out, struct err *e)
{
    return config__field(d, key) ? config__float(d, key, 0, 1, hi, out, e) : 0;
}

/* 0.1 m ln s + 1: how much longer positions sharpen the attention (Peng et al. 2023, section 3.4). */
static double sharpening(double s, double m)
{
    return 0.1 * m * math_log(s) + 1;
}

int config__yarn_finish(struct config *c, const char *label, struct err *e)
{
    struct yarn *y = &c->yarn;
    if (!y->original_ctx)
        y->original_ctx = c->ctx_max;
    if (y->attention_factor == 0)
        y->attention_factor = (float) sharpening((double) y->factor, 1);
    if (y->beta_fast < y->beta_slow)
        return err_set(e, ST_FORMAT,
                       "%s: rope_scaling: beta_fast is %g, below beta_slow %g; expected the reverse", label,
                       (double) y->beta_fast, (double) y->beta_slow);
    double reach = (double) y->factor * y->original_ctx;
    if (reach > CONFIG_CTX_MAX)
        return err_set(e, ST_FORMAT, "%s: rope_scaling: YaRN reaches position %.0f; expected at most %d",
                       label, reach, CONFIG_CTX_MAX);
    if (reach > c->ctx_max)
        c->ctx_max = (int32_t) reach;
    return 0;
}

static int read_yarn(const struct config__doc *rope, int32_t ctx_max, struct yarn *y, struct err *e)
{
    float mscale = 0, all = 0, factor = 0;
    int truncate, st = check_yarn_keys(rope, e);
    *y = (struct yarn){.beta_fast = 32, .beta_slow = 1};
    if (!st && config__field(rope, "original_max_position_embeddings"))
        st = config__int(rope, "original_max_position_embeddings", 1, CONFIG_CTX_MAX, &y->original_ctx, e);
    if (!st && (config__field(rope, "factor") || !y->original_ctx))
        st = config__float(rope, "factor", 1, 1, FACTOR_MAX, &factor, e);
    if (!st)
        st = maybe_float(rope, "attention_factor", 100, &y->attention_factor, e);
    if (!st)
        st = maybe_float(rope, "mscale", 100, &mscale, e);
    if (!st)
        st = maybe_float(rope, "mscale_all_dim", 100, &all, e);
    if (!st)
        st = maybe_float(rope, "beta_fast", BETA_MAX, &y->beta_fast, e);
    if (!st)
        st = maybe_float(rope, "beta_slow", BETA_MAX, &y->beta_slow, e);
    if (!st)
        st = config__bool(rope, "truncate", 1, &truncate, e);
    if (st)
        return st;
    y->truncate = truncate;
    y->factor = factor > 0 ? factor : (float) ((double) ctx_max / y->original_ctx);
    if (y->factor <= 1)
        return err_set(e, ST_FORMAT,
                       "%s: factor is missing and max_position_embeddings is not above "
                       "original_max_position_embeddings; expected a factor > 1",
                       rope->label);
    if (y->attention_factor == 0 && mscale > 0 && all > 0)
        y->attention_factor = (float) (sharpening((double) y->factor, (double) mscale) /
                                       sharpening((double) y->factor, (double) all));
    return 0;
}

/* --- both spellings --- */

/* One of rope_scaling and rope_parameters, which is there: *y is what it scales by, factor 0 for nothing. */
static int read_scaling(const struct config__doc *rope, int32_t ctx_max, struct yarn *y, struct err *e)
{
    const char *type, *old;
    *y = (struct yarn){0};
    int st = config__string(rope, "rope_type", &type, e);
    if (!st)
        st = config__string(rope, "type", &old, e);
    if (st)
        return st;
    type = type ? type : old;
    if (!type || strcmp(type, "default") == 0)
        return 0;
    if (strcmp(type, "yarn") == 0)
        return read_yarn(rope, ctx_max, y, e);
    return err_set(e, ST_UNSUPPORTED,
                   "%s has rope_type \"%s\": %s is not served; expected \"default\" or \"yarn\"", rope->label,
                   model__quote(type).s, rope_words(type));
}

/* Takes `key` from one more place, which must not contradict an earlier one (*n counts them). */
static int merge_float(const struct config__doc *d, const char *key, double lo, int above, double hi,
                       float *out, int *n, struct err *e)
{
    float x;
    if (!d->root || !config__field(d, key))
        return 0;
    int st = config__float(d, key, lo, above, hi, &x, e);
    if (st)
        return st;
    if (*n && x != *out)
        return err_set(e, ST_FORMAT, "%s: %s is %g, but elsewhere in the file %g; expected the same",
                       d->label, key, (double) x, (double) *out);
    *out = x;
    ++*n;
    return 0;
}

/* A base below 1 would turn faster than a position a step: no model does, and its angles outgrow what sines are computed for. */
static int merge_theta(const struct config__doc *d, float *theta, int *n, struct err *e)
{
    return merge_float(d, "rope_theta", 1, 0, 1e12, theta, n, e);
}

/* What both places may say. */
struct rope {
    int n_theta, n_part, n_scaling; /* how many places said it */
    float part;
};

static int read_place(const struct config__doc *d, const char *key, struct config *c, struct rope *r,
                      struct err *e)
{
    char label[256];
    struct yarn y;
    const json_t *v = config__field(d, key);
    struct config__doc rope = {.label = label, .root = (json_t *) v};
    if (!v)
        return 0;
    if (!json_is_object(v))
        return config__refuse(d, key, "an object or null", e);
    snprintf(label, sizeof label, "%s: %s", d->label, key);
    int st = read_scaling(&rope, c->ctx_max, &y, e);
    if (!st)
        st = merge_theta(&rope, &c->rope_theta, &r->n_theta, e);
    if (!st)
        st = merge_float(&rope, "partial_rotary_factor", 0, 1, 1, &r->part, &r->n_part, e);
    if (!st && r->n_scaling && memcmp(&y, &c->yarn, sizeof y) != 0)
        st = err_set(e, ST_FORMAT, "%s and rope_parameters scale positions differently; expected the same",
                     rope.label);
    c->yarn = y;
    r->n_scaling++;
    return st;
}

int config__read_rope(const struct config__doc *d, struct config *c, struct err *e)
{
    struct rope r = {.part = 1};
    int st = merge_theta(d, &c->rope_theta, &r.n_theta, e);
    if (!st)
        st = merge_float(d, "partial_rotary_factor", 0, 1, 1, &r.part, &r.n_part, e);
    if (!st)
        st = read_place(d, "rope_parameters", c, &r, e);
    if (!st)
        st = read_place(d, "rope_scaling", c, &r, e);
    if (st)
        return st;
    if (!r.n_theta)
        return config__refuse(d, "rope_theta", "a number >= 1, here or in rope_parameters", e);
    if (r.part != 1)
        return err_set(e, ST_UNSUPPORTED,
                       "%s: partial_rotary_factor is %g: partial rotation is not served; expected 1",
                       d->label, (double) r.part);
    return c->yarn.factor > 0 ? config__yarn_finish(c, d->label, e) : 0;
}

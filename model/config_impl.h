/* config_impl.h - what the readers of config.json share: a field taken with its type and range checked, or refused by a
 * sentence that names file, field, expected and found.
 *
 *   config.c        the files, the kind of model, its sizes
 *   config_field.c  one field
 *   config_rope.c   rotary positions and YaRN
 *   config_kind.c   experts, FP8
 *   config_gen.c    generation defaults
 *   gguf_config.c   the same facts from a GGUF's metadata
 *
 * Internal to the folder. */
#ifndef MODEL_CONFIG_IMPL_H
#define MODEL_CONFIG_IMPL_H

#include "model/config.h"
#include "model/read.h"

/* Limits that keep every later product inside 63 bits, far above any Qwen3. */
enum {
    CONFIG_HIDDEN_MAX = 1 << 18,
    CONFIG_HEADS_MAX = 1 << 12,
    CONFIG_HEAD_DIM_MAX = 256, /* the attention kernels' scratch */
    CONFIG_FFN_MAX = 1 << 20,
    CONFIG_VOCAB_MAX = 1 << 24,
    CONFIG_CTX_MAX = 1 << 24,     /* a float holds every position up to here exactly (NUMERICS.md, RoPE) */
    CONFIG_EXPERTS_MAX = 1 << 10, /* times layers and three matrices: views in memory; Qwen3 has 128 */
};

/* One JSON object and how to name it. */
struct config__doc {
    const char *label; /* the file, for sentences */
    json_t *root;      /* borrowed */
};

const json_t *config__field(const struct config__doc *d, const char *key); /* NULL: absent or null */

/* ST_FORMAT: key is not what was expected.  ST_UNSUPPORTED: it says `what`, which is not served. */
int config__refuse(const struct config__doc *d, const char *key, const char *expected, struct err *e);
int config__not_served(const struct config__doc *d, const char *key, const char *what, const char *expected,
                       struct err *e);

int config__int(const struct config__doc *d, const char *key, int64_t lo, int64_t hi, int32_t *out,
                struct err *e);
/* lo <= value <= hi, and > lo when `above`. */
int config__float(const struct config__doc *d, const char *key, double lo, int above, double hi, float *out,
                  struct err *e);
/* An absent or null field is `otherwise`. */
int config__bool(const struct config__doc *d, const char *key, int otherwise, int *out, struct err *e);
/* NULL in *out for an absent or null field. */
int config__string(const struct config__doc *d, const char *key, const char **out, struct err *e);

int config__read_rope(const struct config__doc *d, struct config *c, struct err *e); /* wants ctx_max */
int config__read_kind(const struct config__doc *d, struct config *c, struct err *e); /* type, architecture */
int config__read_experts(const struct config__doc *d, struct config *c, struct err *e); /* wants n_layers */
int config__read_quantization(const struct config__doc *d, struct config *c, struct err *e);
int config__read_gen(const struct config__doc *d, int32_t vocab, struct gen_config *g, struct err *e);
int config__read_eos(const struct config__doc *d, int32_t vocab, struct gen_config *g, struct err *e);

/* Sizes that hold each other: heads divide, head_dim is even, YaRN's context.  label names the file. */
int config__check(const struct config *c, const char *label, struct err *e);

/* Fills what a yarn leaves open (attention_factor 0, original_ctx 0) and lifts ctx_max to what it reaches. */
int config__yarn_finish(struct config *c, const char *label, struct err *e);

#endif

/* model.h - one checkpoint directory, opened: configuration, tokenizer, template, tensors.
 *
 * Facts read from disk, never changed after open; any thread may read.  Process lifetime. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "model/config.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"

struct expert_tensors {
    const struct tensor *gate, *up; /* (moe_ffn, hidden) */
    const struct tensor *down;      /* (hidden, moe_ffn) */
};

struct layer_tensors {
    const struct tensor *attn_norm;       /* (hidden) */
    const struct tensor *q, *k, *v;       /* (heads * head_dim, hidden); k and v with n_kv_heads */
    const struct tensor *q_norm, *k_norm; /* (head_dim) */
    const struct tensor *o;               /* (hidden, n_heads * head_dim) */
    const struct tensor *ffn_norm;        /* (hidden) */
    const struct tensor *gate, *up;       /* (ffn, hidden); NULL where the layer has experts */
    const struct tensor *down;            /* (hidden, ffn); likewise */
    const struct tensor *router;          /* (n_experts, hidden); NULL: a dense layer */
    const struct expert_tensors *expert;  /* (n_experts); owned by the model */
};

struct model {
    char *dir; /* owns */
    struct config config;
    struct gen_config gen;
    struct safetensors *tensors; /* owns */
    const struct tensor *embed;  /* (vocab, hidden) */
    const struct tensor *norm;   /* (hidden) */
    const struct tensor *head;   /* (vocab, hidden); embed when tied */
    struct layer_tensors *layer; /* owns; (n_layers) */
    uint64_t
        weights_hash; /* FNV-1a over config, index and a sample of every tensor: part of the fingerprint */
};

/* Opens configuration and weights of DIR and finds every tensor with its exact shape: matrices all F32 or all BF16, norms
 * either.  A tensor that no dense Qwen3 has is refused, too.  Refuses (ST_FORMAT, ST_UNSUPPORTED, ST_IO, ST_NOMEM) with a sentence naming file, tensor, expected and found; *out is NULL then. */
int model_open(struct model **out, const char *dir, struct err *e);
void model_close(struct model *m); /* NULL is fine */

#endif

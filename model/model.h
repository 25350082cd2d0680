/* model.h - one checkpoint, opened: configuration and tensors, whatever the format.
 *
 * Facts read from disk, never changed after open; any thread may read.  Process lifetime. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "model/config.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "model/synth.h"
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
    char *dir; /* owns; the directory without slashes at its end, the .gguf file, or "synth:..." */
    struct config config;
    struct gen_config gen;
    const struct tensor
        *tensor; /* (n_tensors) as the files hold them, sorted by name; one of the next three owns it */
    int n_tensors;
    struct safetensors *safetensors; /* owns; the two others are NULL, likewise below */
    struct gguf *gguf;
    struct synth *synth;
    const struct tensor *embed;    /* (vocab, hidden) */
    const struct tensor *norm;     /* (hidden) */
    const struct tensor *head;     /* (vocab, hidden); embed when tied */
    struct layer_tensors *layer;   /* owns; (n_layers) */
    struct expert_tensors *expert; /* owns; (n_layers, n_experts); NULL: a dense model */
    struct tensor *view;           /* owns; (n_layers, 3, n_experts) cut from a GGUF's stacks; NULL: none */
    uint64_t
        weights_hash; /* FNV-1a over config, index and a sample of every tensor: part of the fingerprint */
    uint64_t
        stamp; /* of the files the tensors lie in: device, inode, size, mtime, ctime; 0: there are none */
    int64_t changed_ns, opened_ns; /* CLOCK_REALTIME: the last change of one of them; when they were opened */
};

/* Opens configuration and weights of `name` (a directory, a .gguf file, or synth:SHAPE; config_load says which) and finds every
 * tensor with its exact shape.  Of safetensors, matrices have the dtype that config.json states, or FP8 with scales where it
 * says so; of GGUF, any type of tensor.h; norms and routers are F32, BF16 or F16 in both.  A tensor that no Qwen3 of this
 * configuration has is refused, too.  Refuses (ST_FORMAT, ST_UNSUPPORTED, ST_IO, ST_INPUT, ST_NOMEM) with a sentence naming file,
 * tensor, expected and found; *out is NULL then. */
int model_open(struct model **out, const char *name, struct err *e);
void model_close(struct model *m); /* NULL is fine */

/* 1: the tensor is stored but not used: the output layer of a tied checkpoint, old rotary buffers. */
int model_leaves_out(const struct model *m, const struct tensor *t);

#endif

/* config.h - what config.json and generation_config.json say, checked.
 *
 * Source: the files of Qwen/Qwen3-*; transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters,
 * dtype) spellings.  Nothing is taken on trust: a required field that is missing, and any field of the wrong type or out
 * of range, is refused with a sentence that names file, field, expected and found. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdint.h>

#include "core/status.h"

enum { CONFIG_EOS_MAX = 16, CONFIG_LAYERS_MAX = 1024 };

/* YaRN (Peng et al. 2023), as transformers' _compute_yarn_parameters reads it. */
struct yarn {
    float factor; /* > 1; 0: no scaling, the rest is not read */
    float beta_fast, beta_slow;
    float attention_factor; /* of cosines and sines; 0.1 ln(factor) + 1 where the file leaves it open */
    int32_t original_ctx;   /* original_max_position_embeddings */
    int32_t truncate;       /* 1: correction bounds are rounded outward to whole dimensions */
};

/* Mixture of experts. */
struct moe {
    int32_t n_experts; /* 0: a dense model, the rest is not read */
    int32_t n_used;    /* num_experts_per_tok, 1..n_experts */
    int32_t ffn;       /* moe_intermediate_size */
    int32_t norm_topk; /* 1: the chosen experts' weights are divided by their sum */
    uint8_t layer
        [CONFIG_LAYERS_MAX]; /* [i]: 1 where layer i has experts (decoder_sparse_step, mlp_only_layers) */
};

struct config {
    int32_t n_layers;
    int32_t hidden;     /* width of the residual stream */
    int32_t n_heads;    /* query heads */
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* even; n_heads * head_dim need not equal hidden */
    int32_t ffn;        /* intermediate_size */
    int32_t vocab;      /* rows of the embedding, padding included */
    int32_t ctx_max;    /* max_position_embeddings, tokens */
    float rope_theta;
    struct yarn yarn;
    struct moe moe;
    float rms_eps;
    int32_t
        tied; /* output layer = embedding; a stored lm_head.weight is then ignored (Qwen3-0.6B stores one) */
    int32_t
        parallel; /* 1: a draft that was trained to guess several tokens in one pass (PARD, An et al. 2025) */
    int32_t pard_token; /* then the id that stands for a token not known yet, below vocab */
    int32_t fp8;        /* 1: matrices may be FP8 with a scale a block of 128 x 128 (quantization_config) */
    char dtype
        [16]; /* "bfloat16", "float16", "float32"; "" where the file does not say (model_open then takes the
                       * matrices' own) and for GGUF, whose tensors each say it themselves */
};

/* generation_config.json, or the same fields of config.json where that file is missing.  An end of text that the former
 * leaves open is taken from the latter. */
struct gen_config {
    int32_t n_eos;
    int32_t eos[CONFIG_EOS_MAX];
    int32_t has_temperature, has_top_k, has_top_p, has_min_p, has_repetition_penalty; /* 0: left open */
    float temperature; /* 0 where do_sample is false */
    int32_t top_k;
    float top_p, min_p;
    float repetition_penalty; /* > 0; 1 where left open */
};

/* Reads what `name` says of the model: DIR/config.json (and DIR/generation_config.json if it is there), the metadata of a .gguf
 * file (or of the one such file in a directory without safetensors), or synth:SHAPE (synth.h).  ST_IO: unreadable; ST_FORMAT:
 * malformed (duplicate keys included) or a bad value; ST_UNSUPPORTED: another architecture, rope type or quantization than
 * this build serves, named in e; ST_INPUT: a bad synth name. */
int config_load(struct config *c, struct gen_config *g, const char *name, struct err *e);

#endif

/* json_mutate.c - a fuzzer's mutator that keeps JSON well-formed. */
#include "tests/lib/json_mutate.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static unsigned next(unsigned *seed, unsigned n)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % n;
}

static json_t *any_value(unsigned *seed)
{
    static const char *const pool[] = {
        "null",
        "true",
        "false",
        "0",
        "1",
        "2",
        "8",
        "-1",
        "4294967296",
        "9223372036854775807",
        "0.5",
        "1e300",
        "-0.0",
        "\"\"",
        "\"default\"",
        "\"yarn\"",
        "\"F32\"",
        "\"one.safetensors\"",
        "\"two.safetensors\"",
        "\"../x.safetensors\"",
        "\"BF16\"",
        "\"F4\"",
        "\"U8\"",
        "\"bfloat16\"",
        "\"full_attention\"",
        "[]",
        "{}",
        "[0,8]",
        "[8,8]",
        "[8,16]",
        "[2]",
        "[2,0]",
        "[1,2,3,4,5,6,7,8,9]",
        "[\"full_attention\"]",
        "{\"rope_type\":\"default\",\"rope_theta\":10000.0}",
        "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64}",
        "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}",
        "\"yarn\"",
        "\"qwen3_moe\"",
        "[\"Qwen3MoeForCausalLM\"]",
        "{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}",
        "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}",
        "{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[8,16]}",
    };
    return json_loads(pool[next(seed, sizeof pool / sizeof *pool)], JSON_DECODE_ANY, NULL);
}

static const char *any_key(const json_t *o, unsigned *seed)
{
    static const char *const pool[] = {
        "a",
        "b",
        "dtype",
        "shape",
        "data_offsets",
        "__metadata__",
        "rope_parameters",
        "rope_scaling",
        "torch_dtype",
        "layer_types",
        "head_dim",
        "eos_token_id",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "do_sample",
        "rope_theta",
        "num_experts",
        "num_local_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "norm_topk_prob",
        "decoder_sparse_step",
        "mlp_only_layers",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "beta_fast",
        "beta_slow",
        "truncate",
        "rope_type",
        "weight_block_size",
        "modules_to_not_convert",
        "a_scale_inv",
        "quantization_config",
        "repetition_penalty",
        "use_sliding_window",
        "sliding_window",
        "dual_chunk_attention_config",
        "partial_rotary_factor",
        "weight_map",
    };
    size_t n = json_object_size(o);
    if (n == 0 || next(seed, 4) == 0)
        return pool[next(seed, sizeof pool / sizeof *pool)];
    void *it = json_object_iter((json_t *) o);
    for (unsigned i = next(seed, (unsigned) n); i; i--)
        it = json_object_iter_next((json_t *) o, it);
    return json_object_iter_key(it);
}

static void mutate(json_t *v, unsigned *seed, int depth)
{
    if (json_is_array(v)) {
        size_t n = json_array_size(v);
        if (n && next(seed, 2))
            json_array_set_new(v, next(seed, (unsigned) n), any_value(seed));
        else if (n && next(seed, 2))
            json_array_remove(v, next(seed, (unsigned) n));
        else
            json_array_append_new(v, any_value(seed));
        return;
    }
    const char *key = any_key(v, seed);
    json_t *inner = json_object_get(v, key);
    if (depth < 4 && (json_is_object(inner) || json_is_array(inner)) && next(seed, 4))
        mutate(inner, seed, depth + 1);
    else if (next(seed, 5) == 0)
        json_object_del(v, key);
    else
        json_object_set_new(v, key, any_value(seed));
}

size_t json_mutate(uint8_t *text, size_t n, size_t cap, unsigned seed)
{
    json_t *o = json_loadb((const char *) text, n, 0, NULL);
    if (!json_is_object(o)) {
        json_decref(o);
        return 0;
    }
    mutate(o, &seed, 0);
    char *s = json_dumps(o, JSON_COMPACT);
    size_t len = s ? strlen(s) : 0;
    if (len > cap)
        len = 0;
    if (len)
        memcpy(text, s, len);
    free(s);
    json_decref(o);
    return len;
}

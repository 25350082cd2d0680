/* ggufile.c - see ggufile.h. */
#include "tests/lib/ggufile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/utf8.h"

void ggufile_le(struct jout *o, uint64_t x, int bytes)
{
    char b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (char) (x >> 8 * i);
    jout_add(o, b, (size_t) bytes);
}

void ggufile_string(struct jout *o, const char *s, size_t n)
{
    ggufile_le(o, n, 8);
    jout_add(o, s, n);
}

void ggufile_key(struct ggufile *g, const char *key, uint32_t type)
{
    ggufile_string(&g->meta, key, strlen(key));
    ggufile_le(&g->meta, type, 4);
    g->n_meta++;
}

void ggufile_int(struct ggufile *g, const char *key, uint32_t v)
{
    ggufile_key(g, key, GGUF_U32);
    ggufile_le(&g->meta, v, 4);
}

void ggufile_float(struct ggufile *g, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    ggufile_key(g, key, GGUF_F32);
    ggufile_le(&g->meta, u, 4);
}

void ggufile_bool(struct ggufile *g, const char *key, int v)
{
    ggufile_key(g, key, GGUF_BOOL);
    ggufile_le(&g->meta, (uint64_t) v, 1);
}

void ggufile_text(struct ggufile *g, const char *key, const char *v)
{
    ggufile_key(g, key, GGUF_STRING);
    ggufile_string(&g->meta, v, strlen(v));
}

void ggufile_list(struct ggufile *g, const char *key, uint32_t type, uint64_t n)
{
    ggufile_key(g, key, GGUF_ARRAY);
    ggufile_le(&g->meta, type, 4);
    ggufile_le(&g->meta, n, 8);
}

static uint64_t pad_up(const struct ggufile *g, uint64_t x)
{
    uint64_t a = g->align ? g->align : 32;
    return (x + a - 1) / a * a;
}

void ggufile_tensor(struct ggufile *g, const char *name, uint32_t type, int n_dims, const int64_t *dim,
                    uint64_t bytes)
{
    ggufile_string(&g->table, name, strlen(name));
    ggufile_le(&g->table, (uint64_t) n_dims, 4);
    for (int i = n_dims - 1; i >= 0; i--)
        ggufile_le(&g->table, (uint64_t) dim[i], 8);
    ggufile_le(&g->table, type, 4);
    ggufile_le(&g->table, g->data + (uint64_t) g->shift_next, 8);
    g->shift_next = 0;
    g->data = pad_up(g, g->data + bytes);
    g->n_tensors++;
}

void ggufile_bytes(struct ggufile *g, struct jout *out)
{
    *out = (struct jout){0};
    jout_str(out, "GGUF");
    ggufile_le(out, g->version ? g->version : 3, 4);
    ggufile_le(out, g->n_tensors, 8);
    ggufile_le(out, g->n_meta, 8);
    jout_add(out, g->meta.p, g->meta.n);
    jout_add(out, g->table.p, g->table.n);
    while (g->n_tensors && out->n % (g->align ? g->align : 32) && !out->status)
        jout_add(out, "", 1);
    for (uint64_t i = 0; i < g->data; i++) {
        char b = (char) (i / 2);
        jout_add(out, &b, 1);
    }
    if (out->status || g->meta.status || g->table.status)
        abort();
    jout_free(&g->meta);
    jout_free(&g->table);
}

/* --- the small model --- */

static void keyed(struct ggufile *g, const char *arch, const char *key, uint32_t v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    ggufile_int(g, full, v);
}

void ggufile_small_meta(struct ggufile *g, const char *arch)
{
    char full[96];
    ggufile_text(g, "general.architecture", arch);
    keyed(g, arch, "block_count", 1);
    keyed(g, arch, "context_length", 64);
    keyed(g, arch, "embedding_length", 32);
    keyed(g, arch, "feed_forward_length", 64);
    keyed(g, arch, "attention.head_count", 2);
    keyed(g, arch, "attention.head_count_kv", 1);
    keyed(g, arch, "attention.key_length", 16);
    snprintf(full, sizeof full, "%s.rope.freq_base", arch);
    ggufile_float(g, full, 10000);
    snprintf(full, sizeof full, "%s.attention.layer_norm_rms_epsilon", arch);
    ggufile_float(g, full, 1e-6f);
}

static void put_byte(struct jout *o, int b)
{
    char s[4];
    uint32_t extra = 256, c = 0;
    for (int k = 0; k <= b; k++) {
        int visible = (k >= 33 && k <= 126) || (k >= 161 && k <= 172) || k >= 174;
        c = visible ? (uint32_t) k : extra++;
    }
    ggufile_string(o, s, (size_t) utf8_put(c, s));
}

void ggufile_small_tokens(struct ggufile *g)
{
    static const char *const more[] = {"th", "the", "<|im_end|>", "<think>", "[PAD260]"};
    static const char *const merges[] = {"t h", "th e"};
    static const uint32_t types[] = {1, 1, 3, 4, 5};
    ggufile_text(g, "tokenizer.ggml.model", "gpt2");
    ggufile_text(g, "tokenizer.ggml.pre", "qwen2");
    ggufile_list(g, "tokenizer.ggml.tokens", GGUF_STRING, 261);
    for (int b = 0; b < 256; b++)
        put_byte(&g->meta, b);
    for (int i = 0; i < 5; i++)
        ggufile_string(&g->meta, more[i], strlen(more[i]));
    ggufile_list(g, "tokenizer.ggml.token_type", GGUF_I32, 261);
    for (int i = 0; i < 261; i++)
        ggufile_le(&g->meta, i < 256 ? 1 : types[i - 256], 4);
    ggufile_list(g, "tokenizer.ggml.merges", GGUF_STRING, 2);
    for (int i = 0; i < 2; i++)
        ggufile_string(&g->meta, merges[i], strlen(merges[i]));
    ggufile_int(g, "tokenizer.ggml.eos_token_id", 258);
}

static void matrix(struct ggufile *g, const char *name, int64_t rows, int64_t cols)
{
    ggufile_tensor(g, name, GGUFILE_Q8_0, 2, (int64_t[]){rows, cols}, (uint64_t) (rows * cols / 32 * 34));
}

static void vector(struct ggufile *g, const char *name, int64_t n)
{
    ggufile_tensor(g, name, GGUFILE_F32, 1, &n, (uint64_t) n * 4);
}

static void stack(struct ggufile *g, const char *name)
{
    ggufile_tensor(g, name, GGUFILE_Q8_0, 3, (int64_t[]){4, 32, 32}, 4 * 32 * 34);
}

void ggufile_small_tensors(struct ggufile *g, int moe)
{
    matrix(g, "token_embd.weight", 261, 32);
    vector(g, "blk.0.attn_norm.weight", 32);
    matrix(g, "blk.0.attn_q.weight", 32, 32);
    matrix(g, "blk.0.attn_k.weight", 16, 32);
    matrix(g, "blk.0.attn_v.weight", 16, 32);
    vector(g, "blk.0.attn_q_norm.weight", 16);
    vector(g, "blk.0.attn_k_norm.weight", 16);
    matrix(g, "blk.0.attn_output.weight", 32, 32);
    vector(g, "blk.0.ffn_norm.weight", 32);
    if (moe) {
        ggufile_tensor(g, "blk.0.ffn_gate_inp.weight", GGUFILE_F32, 2, (int64_t[]){4, 32}, 4 * 32 * 4);
        stack(g, "blk.0.ffn_gate_exps.weight");
        stack(g, "blk.0.ffn_up_exps.weight");
        stack(g, "blk.0.ffn_down_exps.weight");
    } else {
        matrix(g, "blk.0.ffn_gate.weight", 64, 32);
        matrix(g, "blk.0.ffn_up.weight", 64, 32);
        matrix(g, "blk.0.ffn_down.weight", 32, 64);
    }
    vector(g, "output_norm.weight", 32);
}

/* synth_write.c - a synthetic model as files: a Hugging Face directory (bf16, fp8) or one GGUF (q8).
 *
 * What is written opens to the same configuration, tensors, tokenizer and weights_hash as the model in memory.  Nothing that is
 * there already is overwritten. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/config_impl.h"
#include "model/gguf.h"
#include "model/jdoc.h"
#include "model/synth.h"
#include "model/synth_text.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

enum { GGUF_ALIGN = 32, CHUNK = 1 << 24 };

struct writer {
    const struct synth *s;
    const struct synth_shape *shape;
    const char *dir;
    struct config c;
    struct gen_config g;
    struct err *e;
};

/* --- files --- */

static int failed(const struct writer *w, const char *name)
{
    return err_set(w->e, ST_IO, "%.200s/%s: %s", w->dir, name, strerror(errno));
}

static int open_new(const struct writer *w, const char *name, FILE **f)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", w->dir, name) >= (int) sizeof path) {
        errno = ENAMETOOLONG;
        return failed(w, name);
    }
    *f = fopen(path, "wbx");
    return *f ? 0 : failed(w, name);
}

static int close_new(const struct writer *w, const char *name, FILE *f, int st)
{
    if (fclose(f) != 0 && !st)
        st = failed(w, name);
    return st;
}

static int put(const struct writer *w, const char *name, FILE *f, const void *p, size_t n)
{
    const char *s = p;
    for (size_t at = 0; at < n;) {
        size_t k = n - at < CHUNK ? n - at : CHUNK;
        if (fwrite(s + at, 1, k, f) != k)
            return failed(w, name);
        at += k;
    }
    return 0;
}

/* Takes o, whether it could be written or not. */
static int write_text(const struct writer *w, const char *name, struct jout *o)
{
    FILE *f;
    int st = o->status ? err_set(w->e, ST_NOMEM, "out of memory") : open_new(w, name, &f);
    if (!st)
        st = close_new(w, name, f, put(w, name, f, o->p, o->n));
    jout_free(o);
    return st;
}

/* --- JSON --- */

static void field_int(struct jout *o, const char *key, int64_t v)
{
    jout_str(o, ",\n  \"");
    jout_str(o, key);
    jout_str(o, "\": ");
    jout_int(o, v);
}

static void field_raw(struct jout *o, const char *key, const char *v)
{
    jout_str(o, ",\n  \"");
    jout_str(o, key);
    jout_str(o, "\": ");
    jout_str(o, v);
}

static void config_experts(struct jout *o, const struct moe *m)
{
    if (!m->n_experts)
        return;
    field_int(o, "num_experts", m->n_experts);
    field_int(o, "num_experts_per_tok", m->n_used);
    field_int(o, "moe_intermediate_size", m->ffn);
    field_int(o, "decoder_sparse_step", 1);
    field_raw(o, "mlp_only_layers", "[]");
    field_raw(o, "norm_topk_prob", "true");
}

static int write_config(const struct writer *w)
{
    const struct config *c = &w->c;
    struct jout o = {0};
    int moe = c->moe.n_experts > 0;
    jout_str(&o, "{\n  \"architectures\": [\"");
    jout_str(&o, moe ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM");
    jout_str(&o, "\"]");
    field_raw(&o, "model_type", moe ? "\"qwen3_moe\"" : "\"qwen3\"");
    field_int(&o, "num_hidden_layers", c->n_layers);
    field_int(&o, "hidden_size", c->hidden);
    field_int(&o, "num_attention_heads", c->n_heads);
    field_int(&o, "num_key_value_heads", c->n_kv_heads);
    field_int(&o, "head_dim", c->head_dim);
    field_int(&o, "intermediate_size", c->ffn);
    field_int(&o, "vocab_size", c->vocab);
    field_int(&o, "max_position_embeddings", c->ctx_max);
    config_experts(&o, &c->moe);
    field_raw(&o, "hidden_act", "\"silu\"");
    field_raw(&o, "attention_bias", "false");
    field_raw(&o, "rope_theta", "1000000");
    field_raw(&o, "rope_scaling", "null");
    field_raw(&o, "rms_norm_eps", "1e-06");
    field_raw(&o, "tie_word_embeddings", c->tied ? "true" : "false");
    field_raw(&o, "torch_dtype", "\"bfloat16\"");
    if (c->fp8)
        field_raw(&o, "quantization_config",
                  "{\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\", "
                  "\"weight_block_size\": [128, 128]}");
    jout_str(&o, "\n}\n");
    return write_text(w, "config.json", &o);
}

static int write_generation(const struct writer *w)
{
    struct jout o = {0};
    jout_str(&o, "{\n  \"do_sample\": true");
    field_raw(&o, "eos_token_id", "[151645, 151643]");
    field_int(&o, "pad_token_id", SYNTH_BASE);
    field_raw(&o, "temperature", "0.6");
    field_int(&o, "top_k", w->g.top_k);
    field_raw(&o, "top_p", "0.95");
    jout_str(&o, "\n}\n");
    return write_text(w, "generation_config.json", &o);
}

/* --- the vocabulary --- */

/* GPT-2's character for a byte: itself where it is visible in Latin-1, else one from U+0100 on. */
static uint32_t char_of(unsigned char b)
{
    if (b <= 32)
        return 256u + b;
    if (b >= 127 && b <= 160)
        return 256u + 33 + (b - 127u);
    return b == 173 ? 256 + 67 : b;
}

/* A token in byte-level BPE's characters. */
static size_t spell(const char *p, int n, char out[4 * SYNTH_TOKEN_MAX])
{
    size_t k = 0;
    for (int i = 0; i < n; i++)
        k += (size_t) utf8_put(char_of((unsigned char) p[i]), out + k);
    return k;
}

static void json_vocab(struct jout *o)
{
    char s[SYNTH_TOKEN_MAX], text[4 * SYNTH_TOKEN_MAX];
    jout_str(o, "\"vocab\":{");
    for (int32_t id = 0; id < SYNTH_BASE; id++) {
        jout_str(o, id ? ",\n" : "\n");
        jout_quote(o, text, spell(s, synth__token(id, s), text));
        jout_str(o, ":");
        jout_int(o, id);
    }
    jout_str(o, "}");
}

/* "a b" */
static size_t spell_merge(int32_t id, char out[8 * SYNTH_TOKEN_MAX])
{
    char s[SYNTH_TOKEN_MAX];
    int n = synth__token(id, s), left = synth__left(n);
    size_t k = spell(s, left, out);
    out[k++] = ' ';
    return k + spell(s + left, n - left, out + k);
}

static void json_merges(struct jout *o)
{
    char text[8 * SYNTH_TOKEN_MAX];
    jout_str(o, ",\"merges\":[");
    for (int32_t id = SYNTH_BYTES; id < SYNTH_BASE; id++) {
        jout_str(o, id > SYNTH_BYTES ? ",\n" : "\n");
        jout_quote(o, text, spell_merge(id, text));
    }
    jout_str(o, "]");
}

static void json_added(struct jout *o)
{
    jout_str(o, "\"added_tokens\":[");
    for (int i = 0; i < SYNTH_ADDED; i++) {
        jout_str(o, i ? ",\n{\"id\":" : "\n{\"id\":");
        jout_int(o, SYNTH_BASE + i);
        jout_str(o, ",\"content\":");
        jout_quote(o, synth__added[i].text, strlen(synth__added[i].text));
        jout_str(
            o, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":");
        jout_str(o, synth__added[i].special ? "true}" : "false}");
    }
    jout_str(o, "]");
}

static int write_tokenizer(const struct writer *w)
{
    struct jout o = {0};
    jout_str(&o, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    json_added(&o);
    jout_str(
        &o,
        ",\n\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    jout_quote(&o, tokenizer__pattern, strlen(tokenizer__pattern));
    jout_str(
        &o,
        "},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":false,\"use_regex\":false}]},\"post_processor\":null,\n"
        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"
        "\"use_regex\":false},\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
        "\"byte_fallback\":false,\"ignore_merges\":false,");
    json_vocab(&o);
    json_merges(&o);
    jout_str(&o, "}}\n");
    return write_text(w, "tokenizer.json", &o);
}

static int write_tokenizer_config(const struct writer *w)
{
    struct jout o = {0};
    jout_str(&o, "{\n  \"tokenizer_class\": \"Qwen2Tokenizer\"");
    field_raw(&o, "eos_token", "\"<|im_end|>\"");
    field_raw(&o, "pad_token", "\"<|endoftext|>\"");
    field_raw(&o, "chat_template", "\"" SYNTH_TEMPLATE "\"");
    jout_str(&o, "\n}\n");
    return write_text(w, "tokenizer_config.json", &o);
}

/* --- safetensors --- */

static void header_entry(struct jout *o, const struct tensor *t, uint64_t at)
{
    jout_quote(o, t->name, strlen(t->name));
    jout_str(o, ":{\"dtype\":\"");
    jout_str(o, t->dtype);
    jout_str(o, "\",\"shape\":[");
    for (int i = 0; i < t->n_dims; i++) {
        jout_str(o, i ? "," : "");
        jout_int(o, t->dim[i]);
    }
    jout_str(o, "],\"data_offsets\":[");
    jout_int(o, (int64_t) at);
    jout_str(o, ",");
    jout_int(o, (int64_t) (at + t->bytes));
    jout_str(o, "]}");
}

static void put_le(struct jout *o, uint64_t x, int bytes)
{
    char b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (char) (x >> 8 * i);
    jout_add(o, b, (size_t) bytes);
}

static int write_safetensors(const struct writer *w)
{
    static const char name[] = "model.safetensors";
    const struct tensor *t = synth_tensors(w->s);
    struct jout head = {0}, o = {0};
    uint64_t at = 0;
    FILE *f;
    for (int i = 0; i < synth_count(w->s); at += t[i++].bytes) {
        jout_str(&head, i ? "," : "{");
        header_entry(&head, &t[i], at);
    }
    jout_str(&head, "}");
    while (head.n % 8 && !head.status)
        jout_str(&head, " ");
    put_le(&o, head.n, 8);
    jout_add(&o, head.p, head.n);
    int st = head.status || o.status ? err_set(w->e, ST_NOMEM, "out of memory") : open_new(w, name, &f);
    if (!st) {
        st = put(w, name, f, o.p, o.n);
        for (int i = 0; !st && i < synth_count(w->s); i++)
            st = put(w, name, f, t[i].data, t[i].bytes);
        st = close_new(w, name, f, st);
    }
    jout_free(&head);
    jout_free(&o);
    return st;
}

/* --- GGUF --- */

/* Metadata being written: pairs are counted. */
struct meta {
    struct jout o;
    uint64_t n;
    const char *arch;
};

static void put_string(struct jout *o, const char *s, size_t n)
{
    put_le(o, n, 8);
    jout_add(o, s, n);
}

/* A key that begins with a dot goes behind the architecture. */
static void put_key(struct meta *m, const char *key, int type)
{
    char full[96];
    int n = *key == '.' ? snprintf(full, sizeof full, "%s%s", m->arch, key)
                        : snprintf(full, sizeof full, "%s", key);
    put_string(&m->o, full, (size_t) n);
    put_le(&m->o, (uint64_t) type, 4);
    m->n++;
}

static void meta_int(struct meta *m, const char *key, int64_t v)
{
    put_key(m, key, GGUF_U32);
    put_le(&m->o, (uint64_t) v, 4);
}

static void meta_float(struct meta *m, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    put_key(m, key, GGUF_F32);
    put_le(&m->o, u, 4);
}

static void meta_text(struct meta *m, const char *key, const char *v)
{
    put_key(m, key, GGUF_STRING);
    put_string(&m->o, v, strlen(v));
}

static void meta_list(struct meta *m, const char *key, int type, uint64_t n)
{
    put_key(m, key, GGUF_ARRAY);
    put_le(&m->o, (uint64_t) type, 4);
    put_le(&m->o, n, 8);
}

static void meta_model(struct meta *m, const struct config *c, const struct gen_config *g)
{
    const struct {
        const char *key;
        int32_t v;
    } list[] = {
        {".block_count", c->n_layers},
        {".context_length", c->ctx_max},
        {".embedding_length", c->hidden},
        {".feed_forward_length", c->ffn},
        {".attention.head_count", c->n_heads},
        {".attention.head_count_kv", c->n_kv_heads},
        {".attention.key_length", c->head_dim},
        {".attention.value_length", c->head_dim},
        {".expert_count", c->moe.n_experts},
        {".expert_used_count", c->moe.n_used},
        {".expert_feed_forward_length", c->moe.ffn},
    };
    meta_text(m, "general.architecture", m->arch);
    meta_text(m, "general.type", "model");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].v)
            meta_int(m, list[i].key, list[i].v);
    meta_float(m, ".rope.freq_base", c->rope_theta);
    meta_float(m, ".attention.layer_norm_rms_epsilon", c->rms_eps);
    meta_float(m, "general.sampling.temp", g->temperature);
    meta_int(m, "general.sampling.top_k", g->top_k);
    meta_float(m, "general.sampling.top_p", g->top_p);
    meta_int(m, "general.quantization_version", 2);
    meta_int(m, "general.file_type", 7); /* mostly Q8_0 */
}

static void meta_tokens(struct meta *m)
{
    char s[SYNTH_TOKEN_MAX], text[8 * SYNTH_TOKEN_MAX];
    meta_list(m, "tokenizer.ggml.tokens", GGUF_STRING, SYNTH_ROWS);
    for (int32_t id = 0; id < SYNTH_BASE; id++)
        put_string(&m->o, text, spell(s, synth__token(id, s), text));
    for (int32_t id = SYNTH_BASE; id < SYNTH_ROWS; id++) {
        int n = id < SYNTH_BASE + SYNTH_ADDED
                    ? snprintf(text, sizeof text, "%s", synth__added[id - SYNTH_BASE].text)
                    : snprintf(text, sizeof text, "[PAD%d]", id);
        put_string(&m->o, text, (size_t) n);
    }
    meta_list(m, "tokenizer.ggml.token_type", GGUF_I32, SYNTH_ROWS);
    for (int32_t id = 0; id < SYNTH_ROWS; id++) {
        int i = id - SYNTH_BASE;
        put_le(&m->o, (uint64_t) (i < 0 ? 1 : i >= SYNTH_ADDED ? 5 : synth__added[i].special ? 3 : 4), 4);
    }
    meta_list(m, "tokenizer.ggml.merges", GGUF_STRING, SYNTH_BASE - SYNTH_BYTES);
    for (int32_t id = SYNTH_BYTES; id < SYNTH_BASE; id++)
        put_string(&m->o, text, spell_merge(id, text));
}

static void meta_tokenizer(struct meta *m, const struct gen_config *g)
{
    meta_text(m, "tokenizer.ggml.model", "gpt2");
    meta_text(m, "tokenizer.ggml.pre", "qwen2");
    meta_tokens(m);
    meta_int(m, "tokenizer.ggml.eos_token_id", g->eos[0]);
    meta_int(m, "tokenizer.ggml.padding_token_id", g->eos[1]);
    put_key(m, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
    put_le(&m->o, 0, 1);
    meta_text(m, "tokenizer.chat_template", SYNTH_TEMPLATE);
}

static uint64_t pad_up(uint64_t x)
{
    return (x + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
}

static void put_table(struct jout *o, const struct tensor *t, int n)
{
    uint64_t at = 0;
    for (int i = 0; i < n; at += pad_up(t[i++].bytes)) {
        put_string(o, t[i].name, strlen(t[i].name));
        put_le(o, (uint64_t) t[i].n_dims, 4);
        for (int k = t[i].n_dims - 1; k >= 0; k--)
            put_le(o, (uint64_t) t[i].dim[k], 8);
        put_le(o, t[i].type == TENSOR_Q8_0 ? 8 : 0, 4); /* ggml's numbers of Q8_0 and F32 */
        put_le(o, at, 8);
    }
}

static int put_padding(const struct writer *w, const char *name, FILE *f, uint64_t at)
{
    static const char zero[GGUF_ALIGN];
    return put(w, name, f, zero, (size_t) (pad_up(at) - at));
}

static int write_gguf(const struct writer *w)
{
    static const char name[] = "model.gguf";
    const struct tensor *t = synth_tensors(w->s);
    struct meta m = {.arch = w->c.moe.n_experts ? "qwen3moe" : "qwen3"};
    struct jout o = {0};
    FILE *f;
    meta_model(&m, &w->c, &w->g);
    meta_tokenizer(&m, &w->g);
    jout_str(&o, "GGUF");
    put_le(&o, 3, 4);
    put_le(&o, (uint64_t) synth_count(w->s), 8);
    put_le(&o, m.n, 8);
    jout_add(&o, m.o.p, m.o.n);
    put_table(&o, t, synth_count(w->s));
    int st = m.o.status || o.status ? err_set(w->e, ST_NOMEM, "out of memory") : open_new(w, name, &f);
    if (!st) {
        st = put(w, name, f, o.p, o.n);
        if (!st)
            st = put_padding(w, name, f, o.n);
        for (int i = 0; !st && i < synth_count(w->s); i++) {
            st = put(w, name, f, t[i].data, t[i].bytes);
            if (!st)
                st = put_padding(w, name, f, t[i].bytes);
        }
        st = close_new(w, name, f, st);
    }
    jout_free(&m.o);
    jout_free(&o);
    return st;
}

/* --- the directory --- */

static int is_part(const char *name)
{
    static const char *const parts[] = {".gguf", ".safetensors", ".json", ".jinja", "merges.txt"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t k = strlen(parts[i]);
        if (n >= k && strcmp(name + n - k, parts[i]) == 0)
            return 1;
    }
    return 0;
}

static int check_dir(const struct writer *w)
{
    if (mkdir(w->dir, 0777) != 0 && errno != EEXIST)
        return err_set(w->e, ST_IO, "%.200s: %s", w->dir, strerror(errno));
    DIR *d = opendir(w->dir);
    int st = d ? 0 : err_set(w->e, ST_IO, "%.200s: %s", w->dir, strerror(errno));
    for (struct dirent *x; !st && (x = readdir(d));)
        if (is_part(x->d_name))
            st = err_set(w->e, ST_PRECONDITION,
                         "%.200s: holds '%s' already; expected a directory without a checkpoint", w->dir,
                         model__quote(x->d_name).s);
    if (d)
        closedir(d);
    return st;
}

static int write_directory(const struct writer *w)
{
    int st = write_config(w);
    if (!st)
        st = write_generation(w);
    if (!st)
        st = write_tokenizer(w);
    if (!st)
        st = write_tokenizer_config(w);
    return st ? st : write_safetensors(w);
}

int synth_write(const struct synth_shape *shape, const char *dir, struct err *e)
{
    struct synth *s = NULL;
    struct writer w = {.shape = shape, .dir = dir, .e = e};
    synth_config(shape, &w.c, &w.g);
    int st = check_dir(&w);
    if (!st)
        st = synth_open(&s, shape, e);
    w.s = s;
    if (!st)
        st = shape->dtype == SYNTH_Q8 ? write_gguf(&w) : write_directory(&w);
    synth_close(s);
    return st;
}

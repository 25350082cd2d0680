/* checkpoint.c - checkpoints that a test writes for itself. */
#include "tests/lib/checkpoint.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char checkpoint_config[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_act\":\"silu\","
    "\"attention_bias\":false,\"num_hidden_layers\":1,\"hidden_size\":8,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"head_dim\":6,\"intermediate_size\":12,\"vocab_size\":10,"
    "\"max_position_embeddings\":64,\"rope_theta\":10000.0,\"rms_norm_eps\":1e-06,\"tie_word_embeddings\":"
    "true,"
    "\"torch_dtype\":\"float32\",\"eos_token_id\":9}";

static void die(const char *what)
{
    perror(what);
    abort();
}

char *checkpoint_dir_new(void)
{
    const char *tmp = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/outrider-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    char *dir = strdup(path);
    if (!dir || !mkdtemp(dir))
        die(path);
    return dir;
}

void checkpoint_dir_free(char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));)
        if (strcmp(x->d_name, ".") != 0 && strcmp(x->d_name, "..") != 0)
            unlinkat(dirfd(d), x->d_name, 0);
    if (d)
        closedir(d);
    rmdir(dir);
    free(dir);
}

static FILE *create(const char *dir, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f)
        die(path);
    return f;
}

void checkpoint_write(const char *dir, const char *name, const void *p, size_t bytes)
{
    FILE *f = create(dir, name);
    if (bytes && fwrite(p, 1, bytes, f) != bytes)
        die(name);
    fclose(f);
}

void checkpoint_text(const char *dir, const char *name, const char *text)
{
    checkpoint_write(dir, name, text, strlen(text));
}

static void put_header(FILE *f, const char *header)
{
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++)
        fputc((int) (n >> 8 * i & 255), f);
    fwrite(header, 1, n, f);
}

void checkpoint_raw(const char *dir, const char *name, const char *header, size_t bytes)
{
    FILE *f = create(dir, name);
    put_header(f, header);
    for (size_t i = 0; i < bytes; i++)
        fputc((int) (i & 255), f);
    fclose(f);
}

int checkpoint_tensors(struct checkpoint_tensor t[CHECKPOINT_TENSORS])
{
    static const struct checkpoint_tensor all[CHECKPOINT_TENSORS] = {
        {"model.embed_tokens.weight", "F32", {10, 8}, 2},
        {"model.layers.0.input_layernorm.weight", "F32", {8}, 1},
        {"model.layers.0.self_attn.q_proj.weight", "F32", {12, 8}, 2},
        {"model.layers.0.self_attn.k_proj.weight", "F32", {6, 8}, 2},
        {"model.layers.0.self_attn.v_proj.weight", "F32", {6, 8}, 2},
        {"model.layers.0.self_attn.q_norm.weight", "F32", {6}, 1},
        {"model.layers.0.self_attn.k_norm.weight", "F32", {6}, 1},
        {"model.layers.0.self_attn.o_proj.weight", "F32", {8, 12}, 2},
        {"model.layers.0.post_attention_layernorm.weight", "F32", {8}, 1},
        {"model.layers.0.mlp.gate_proj.weight", "F32", {12, 8}, 2},
        {"model.layers.0.mlp.up_proj.weight", "F32", {12, 8}, 2},
        {"model.layers.0.mlp.down_proj.weight", "F32", {8, 12}, 2},
        {"model.norm.weight", "F32", {8}, 1},
        {"lm_head.weight", "F32", {10, 8}, 2},
    };
    memcpy(t, all, sizeof all);
    return CHECKPOINT_TENSORS;
}

static size_t tensor_bytes(const struct checkpoint_tensor *t)
{
    size_t n = strcmp(t->dtype, "F32") == 0 || strcmp(t->dtype, "I32") == 0 ? 4
               : strcmp(t->dtype, "F8_E4M3") == 0                           ? 1
                                                                            : 2;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t) t->dim[i];
    return n;
}

static json_t *tensor_entry(const struct checkpoint_tensor *t, size_t at)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, json_integer(t->dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape, "data_offsets",
                     (json_int_t) at, (json_int_t) (at + tensor_bytes(t)));
}

static void put_data(FILE *f, const struct checkpoint_tensor *t, unsigned salt)
{
    unsigned x = salt * 2654435761u + 1;
    for (const char *p = t->name; *p; p++)
        x = x * 31 + (unsigned char) *p;
    for (size_t i = 0, n = tensor_bytes(t); i < n; i++) {
        x = x * 1664525u + 1013904223u;
        fputc((int) (x >> 24), f);
    }
}

void checkpoint_tensors_write(const char *dir, const char *name, const struct checkpoint_tensor *t, int n,
                              unsigned salt)
{
    json_t *header = json_object();
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!t[i].dtype[0])
            continue;
        json_object_set_new(header, t[i].name, tensor_entry(&t[i], at));
        at += tensor_bytes(&t[i]);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    char padded[8192];
    size_t len = (strlen(text) + 7) / 8 * 8;
    if (len >= sizeof padded)
        die("header");
    snprintf(padded, sizeof padded, "%-*s", (int) len, text);
    FILE *f = create(dir, name);
    put_header(f, padded);
    for (int i = 0; i < n; i++)
        if (t[i].dtype[0])
            put_data(f, &t[i], salt);
    fclose(f);
    free(text);
    json_decref(header);
}

const char *checkpoint_lacks(const struct err *e, const char *words)
{
    static char word[256];
    while (*words) {
        size_t n = strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int) n, words);
        if (!strstr(e->text, word))
            return word;
        words += n + (words[n] == '|');
    }
    return NULL;
}

const char *checkpoint_shared(const char *sub)
{
    static char path[1024];
    const char *root = getenv("OUTRIDER_SHARED");
    snprintf(path, sizeof path, "%s/%s", root && *root ? root : "../shared", sub);
    if (access(path, R_OK) == 0)
        return path;
    fprintf(stderr, "skipped: %s is not there (OUTRIDER_SHARED names the folder)\n", path);
    return NULL;
}

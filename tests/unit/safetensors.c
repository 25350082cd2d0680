/* safetensors.c - weight files: what is mapped, and one case for each refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "tests/lib/checkpoint.h"

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

static void must_refuse(const char *dir, int status, const char *words)
{
    struct safetensors *s = (struct safetensors *) &status;
    struct err e = {0};
    int st = safetensors_open(&s, dir, &e);
    const char *lacks = checkpoint_lacks(&e, words);
    if (st != status)
        fail_msg("status %s, expected %s with '%s': %s", status_name(st), status_name(status), words, e.text);
    if (lacks)
        fail_msg("no '%s' in: %s", lacks, e.text);
    assert_int_equal(e.status, status);
    assert_null(s);
}

static const struct tensor *found(const struct safetensors *s, const char *name)
{
    return tensor_find(safetensors_tensors(s), safetensors_count(s), name);
}

static struct safetensors *must_open(const char *dir)
{
    struct safetensors *s;
    struct err e = {0};
    if (safetensors_open(&s, dir, &e))
        fail_msg("%s", e.text);
    return s;
}

/* A file of these header entries, padded so that the data is aligned, and so many bytes of data. */
static void put(const char *dir, const char *name, const char *entries, int bytes)
{
    char text[1024], padded[1024];
    snprintf(text, sizeof text, "{%s}", entries);
    snprintf(padded, sizeof padded, "%-*s", (int) (strlen(text) + 7) / 8 * 8, text);
    checkpoint_raw(dir, name, padded, (size_t) bytes);
}

static void maps_one_file(void **state)
{
    (void) state;
    char *dir = checkpoint_dir_new();
    put(dir, SINGLE,
        "\"__metadata__\":{\"format\":\"pt\"},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[20,20]},"
        "\"scalar\":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[20,21]}",
        21);
    struct safetensors *s = must_open(dir);
    assert_int_equal(safetensors_count(s), 4);
    assert_string_equal(safetensors_tensors(s)[0].name, "a");
    assert_string_equal(safetensors_tensors(s)[3].name, "scalar");
    const struct tensor *b = found(s, "b");
    assert_ptr_equal(b, &safetensors_tensors(s)[1]);
    assert_int_equal(b->type, TENSOR_BF16);
    assert_string_equal(b->dtype, "BF16");
    assert_string_equal(b->file, SINGLE);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dim[0], 2);
    assert_int_equal(b->dim[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(((const unsigned char *) b->data)[0], 8);
    assert_int_equal(((const unsigned char *) b->data)[11], 19);
    assert_int_equal(found(s, "none")->bytes, 0);
    assert_int_equal(found(s, "scalar")->n_dims, 0);
    assert_null(found(s, "c"));
    safetensors_close(s);
    checkpoint_dir_free(dir);
}

/* Entries of a header, put between braces (and padded to keep the data aligned), with so many bytes of data. */
static const struct {
    const char *header;
    int bytes;
    const char *words; /* beside the file's name */
} bad[] = {
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"a\":{\"dtype\":\"F32\",\"shape\":[2],"
     "\"data_offsets\":[0,8]}",
     8, "malformed JSON|duplicate|a"},
    {"\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
     "duplicate|dtype"},
    {"\"a\":", 8, "malformed JSON at line 1"},
    {"\"a\":7", 0, "tensor 'a' is 7|expected an object"},
    {"\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}", 8, "tensor 'a'|dtype is missing"},
    {"\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}", 8, "tensor 'a'|dtype is 3|a string"},
    {"\"a\":{\"dtype\":\"F37\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|dtype 'F37'|expected F32"},
    {"\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}", 8, "tensor 'a'|shape is missing"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":\"2\",\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|shape is \"2\"|array"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|9 sizes|at most 8"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|size 0 of the shape is -2|>= 0"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|size 0 of the shape is 2.0|integer"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|overflows"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|overflows"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}", 8,
     "too big integer"},
    {"\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}", 1, "tensor 'a'|12 bits|whole bytes"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2]}", 8, "tensor 'a'|data_offsets"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}", 8, "tensor 'a'|data_offsets"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}", 8, "tensor 'a'|data_offsets"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}", 8,
     "tensor 'a'|data_offsets|begin <= end"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}", 8, "tensor 'a'|data_offsets"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[\"0\",8]}", 8,
     "tensor 'a'|data_offsets|integers"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{}}", 8, "tensor 'a'|data_offsets"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}", 8, "tensor 'a'|span 8 bytes|take 12"},
    {"\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
     "tensor 'a'|span 8 bytes|BF16 take 4"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 7,
     "tensor 'a'|byte 8|holds 7|truncated"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 0,
     "tensor 'a'|byte 8|holds 0|truncated"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[9223372036854775799,9223372036854775807]}", 8,
     "tensor 'a'|byte 9223372036854775807|holds 8"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 12, "12 bytes of data|end at 8"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}", 12,
     "hole of 4 bytes|tensor 'a'|byte 4"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}",
     20, "hole of 4 bytes|tensor 'b'|byte 12|expected 8"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}",
     12, "tensor 'b' overlaps 'a'|byte 4|expected 8"},
    {"\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}",
     8, "overlaps|byte 0|expected 8"},
    {"\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}",
     6, "tensor 'b' is misaligned|multiple of 4 for F32"},
    {"\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
     "tensor ''|name of 0 bytes|1 to 512"},
    {"\"a\\u0007\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8,
     "tensor 'a?'|control characters"},
    {"\"__metadata__\":7", 0, "__metadata__ is 7|an object of strings"},
    {"\"__metadata__\":{\"format\":1}", 0, "__metadata__ key 'format' is 1|expected a string"},
    {"", 5, "5 bytes of data|end at 0"},
};

static void refuses_bad_headers(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *dir = checkpoint_dir_new();
        put(dir, SINGLE, bad[i].header, bad[i].bytes);
        must_refuse(dir, ST_FORMAT, "/model.safetensors: ");
        must_refuse(dir, ST_FORMAT, bad[i].words);
        checkpoint_dir_free(dir);
    }
}

static void refuses_bad_lengths(void **state)
{
    (void) state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } list[] = {
        {"", 0, "empty"},
        {"\2\0\0\0", 4, "truncated: 4 bytes|at least 8"},
        {"\0\0\0\0\0\0\0\0", 8, "header of 0 bytes"},
        {"\2\0\0\0\0\0\0\0", 8, "truncated: the header claims 2 bytes|holds 0"},
        {"\2\0\0\0\0\0\0\0{", 9, "truncated: the header claims 2 bytes|holds 1"},
        {"\377\377\377\377\377\377\377\377{}", 10, "claims 18446744073709551615 bytes|at most 16777216"},
        {"\370\377\377\377\377\377\377\377{}", 10, "claims 18446744073709551608 bytes|at most 16777216"},
        {"\1\0\0\1\0\0\0\0{}", 10, "claims 16777217 bytes|at most 16777216"},
        {"\3\0\0\0\0\0\0\0 {}", 11, "does not begin with '{'"},
        {"\2\0\0\0\0\0\0\0[]", 10, "does not begin with '{'"},
        {"\1\0\0\0\0\0\0\0{}", 10, "malformed JSON"},
        {"\4\0\0\0\0\0\0\0{} x", 12, "malformed JSON"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char *dir = checkpoint_dir_new();
        checkpoint_write(dir, SINGLE, list[i].bytes, list[i].n);
        must_refuse(dir, ST_FORMAT, "/model.safetensors: ");
        must_refuse(dir, ST_FORMAT, list[i].words);
        checkpoint_dir_free(dir);
    }
}

/* The data of an odd header begins at an odd byte of the file. */
static void refuses_misaligned_data(void **state)
{
    (void) state;
    char *dir = checkpoint_dir_new();
    const char *text = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}";
    char header[128];
    snprintf(header, sizeof header, "%-*s", (int) strlen(text) | 1, text);
    checkpoint_raw(dir, SINGLE, header, 4);
    must_refuse(dir, ST_FORMAT, "tensor 'a' is misaligned|multiple of 2 for BF16");
    checkpoint_dir_free(dir);
}

static void refuses_long_names(void **state)
{
    (void) state;
    char header[2048], name[600];
    char *dir = checkpoint_dir_new();
    memset(name, 'n', sizeof name);
    name[513] = 0;
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", name);
    checkpoint_raw(dir, SINGLE, header, 0);
    must_refuse(dir, ST_FORMAT, "tensor 'nnn|...'|name of 513 bytes|1 to 512");
    checkpoint_dir_free(dir);
}

static void refuses_what_is_no_file(void **state)
{
    (void) state;
    char path[600];
    char *dir = checkpoint_dir_new();
    must_refuse(dir, ST_IO, "neither model.safetensors nor model.safetensors.index.json");
    snprintf(path, sizeof path, "%s/%s", dir, SINGLE);
    assert_int_equal(mkfifo(path, 0600), 0);
    must_refuse(dir, ST_IO, "/model.safetensors: |not a regular file");
    unlink(path);
    assert_int_equal(symlink("nowhere", path), 0);
    must_refuse(dir, ST_IO, "/model.safetensors: |No such file");
    checkpoint_dir_free(dir);
}

/* --- shards --- */

#define ENTRY(name) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static char *shards_new(const char *index)
{
    char *dir = checkpoint_dir_new();
    put(dir, "one.safetensors", ENTRY("a"), 8);
    put(dir, "two.safetensors", ENTRY("b"), 8);
    checkpoint_text(dir, INDEX, index);
    return dir;
}

static void maps_shards(void **state)
{
    (void) state;
    char *dir = shards_new("{\"metadata\":{\"total_size\":16},"
                           "\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    struct safetensors *s = must_open(dir);
    assert_int_equal(safetensors_count(s), 2);
    assert_string_equal(found(s, "a")->file, "one.safetensors");
    assert_string_equal(found(s, "b")->file, "two.safetensors");
    safetensors_close(s);
    put(dir, SINGLE, ENTRY("whole"), 8);
    s = must_open(dir); /* model.safetensors goes before an index, as at Hugging Face */
    assert_int_equal(safetensors_count(s), 1);
    assert_non_null(found(s, "whole"));
    safetensors_close(s);
    checkpoint_dir_free(dir);
}

static void leaves_out_what_the_index_does_not_list(void **state)
{
    (void) state;
    char *dir = shards_new("{\"weight_map\":{\"a\":\"one.safetensors\"}}");
    put(dir, "one.safetensors",
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}",
        9);
    struct safetensors *s = must_open(dir);
    assert_int_equal(safetensors_count(s), 1);
    assert_non_null(found(s, "a"));
    safetensors_close(s);
    checkpoint_dir_free(dir);
}

static void refuses_bad_indexes(void **state)
{
    (void) state;
    static const struct {
        const char *index;
        int status;
        const char *words;
    } list[] = {
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", ST_FORMAT,
         "index.json|duplicate|a"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"", ST_FORMAT, "index.json|malformed JSON"},
        {"[]", ST_FORMAT, "index.json|expected an object"},
        {"{}", ST_FORMAT, "index.json|weight_map is missing"},
        {"{\"weight_map\":[]}", ST_FORMAT, "index.json|weight_map is an array"},
        {"{\"weight_map\":{\"a\":1}}", ST_FORMAT, "index.json|tensor 'a' lies in 1|same directory"},
        {"{\"weight_map\":{\"a\":\"\"}}", ST_FORMAT, "index.json|tensor 'a' lies in \"\""},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", ST_FORMAT,
         "tensor 'a' lies in \"../one|same directory"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", ST_FORMAT, "tensor 'a' lies in|same directory"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", ST_FORMAT, "tensor 'a' lies in|same directory"},
        {"{\"weight_map\":{\"a\":\"one..safetensors\"}}", ST_FORMAT, "tensor 'a' lies in|same directory"},
        {"{\"weight_map\":{\"a\":\"..safetensors\"}}", ST_FORMAT, "tensor 'a' lies in|same directory"},
        {"{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}", ST_FORMAT,
         "tensor 'a' lies in|a .safetensors file"},
        {"{\"weight_map\":{\"a\":\"one\\n.safetensors\"}}", ST_FORMAT, "tensor 'a' lies in|same directory"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", ST_IO,
         "three.safetensors: no such file|index.json names it"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}", ST_FORMAT,
         "index.json|tensor 'c' is listed in 'two.safetensors'|does not hold it"},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", ST_FORMAT,
         "lies here, but|places it"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char *dir = shards_new(list[i].index);
        must_refuse(dir, list[i].status, list[i].words);
        checkpoint_dir_free(dir);
    }
}

static void refuses_a_bad_shard_and_a_tensor_held_twice(void **state)
{
    (void) state;
    static const char index[] = "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}";
    char *dir = shards_new(index);
    put(dir, "two.safetensors", ENTRY("b"), 5);
    must_refuse(dir, ST_FORMAT, "/two.safetensors: |tensor 'b'|truncated");
    put(dir, "two.safetensors",
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}",
        16);
    must_refuse(dir, ST_FORMAT, "/two.safetensors: |tensor 'a' lies here|'one.safetensors'");
    checkpoint_dir_free(dir);
}

static void opens_the_golden_files(void **state)
{
    (void) state;
    static const struct {
        const char *name;
        int n;
    } list[] = {
        {"dense-tied", 35}, {"dense-untied", 36}, {"dense-bf16", 35},
        {"sharded", 47},    {"moe", 102},         {"fp8", 57},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char sub[64];
        snprintf(sub, sizeof sub, "golden/logits/%s", list[i].name);
        const char *dir = checkpoint_shared(sub);
        if (!dir)
            skip();
        struct safetensors *s = must_open(dir);
        assert_int_equal(safetensors_count(s), list[i].n);
        safetensors_close(s);
    }
}

static void names_types(void **state)
{
    (void) state;
    assert_string_equal(tensor_type_name(TENSOR_F32), "F32");
    assert_string_equal(tensor_type_name(TENSOR_BF16), "BF16");
    assert_string_equal(tensor_type_name(TENSOR_F16), "F16");
    assert_string_equal(tensor_type_name(TENSOR_F8_E4M3), "F8_E4M3");
    assert_string_equal(tensor_type_name(TENSOR_OTHER), "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_one_file),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(refuses_bad_lengths),
        cmocka_unit_test(refuses_misaligned_data),
        cmocka_unit_test(refuses_long_names),
        cmocka_unit_test(refuses_what_is_no_file),
        cmocka_unit_test(maps_shards),
        cmocka_unit_test(leaves_out_what_the_index_does_not_list),
        cmocka_unit_test(refuses_bad_indexes),
        cmocka_unit_test(refuses_a_bad_shard_and_a_tensor_held_twice),
        cmocka_unit_test(opens_the_golden_files),
        cmocka_unit_test(names_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

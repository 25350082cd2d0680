/* tokenizer.c - the tokenizer against Hugging Face's ids and decodings, from both forms of its files, and against
 * llama.cpp's vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "model/jdoc.h"
#include "model/tokenizer.h"
#include "tests/lib/text.h"

static struct tokenizer *open_shared(const char *dir)
{
    struct tokenizer *t;
    struct err e = {0};
    if (access(text_shared(dir), R_OK) != 0) {
        print_message("skipped: %s is not there (OUTRIDER_SHARED)\n", text_shared(dir));
        skip();
    }
    if (tokenizer_open(&t, text_shared(dir), &e) < 0)
        fail_msg("%s", e.text);
    return t;
}

static char *read_shared(const char *name, size_t *n)
{
    char *text = text_read(text_shared(name), n);
    if (!text) {
        print_message("skipped: %s is not there (OUTRIDER_SHARED)\n", text_shared(name));
        skip();
    }
    return text;
}

/* The ids, decoded; to be freed. */
static char *decode(const struct tokenizer *t, const struct tokens *ids, size_t *n)
{
    struct utf8_hold hold = {0};
    struct jout o = {0};
    char piece[3 * 4096 + 16];
    for (size_t i = 0; i < ids->n; i++) {
        size_t len;
        const char *p = tokenizer_bytes(t, ids->id[i], &len);
        assert_non_null(p);
        jout_add(&o, piece, utf8_hold_push(&hold, p, len, i + 1 == ids->n, piece));
    }
    *n = o.n;
    return o.p;
}

static int same_ids(const struct jnode *want, const struct tokens *got)
{
    const struct jnode *x = jnode_first(want);
    int64_t v;
    if (want->n != got->n)
        return 0;
    for (size_t i = 0; i < got->n; i++, x = jnode_next(x))
        if (!jnode_int(x, &v) || v != got->id[i])
            return 0;
    return 1;
}

static void check_line(const struct tokenizer *t, const char *line, size_t len, size_t number)
{
    struct jdoc d;
    struct err e = {0};
    struct tokens ids = {0};
    size_t n;
    if (jdoc_parse(&d, line, len, &e) < 0)
        fail_msg("line %zu: %s", number, e.text);
    const struct jnode *text = jnode_get(d.node, "text"), *want = jnode_get(d.node, "decoded");
    if (tokenizer_encode(t, text->text, text->bytes, TOKENIZER_ADDED, &ids, &e) < 0)
        fail_msg("line %zu: %s", number, e.text);
    if (!same_ids(jnode_get(d.node, "ids"), &ids))
        fail_msg("line %zu: other ids for \"%.*s\"", number, (int) text->bytes, text->text);
    char *back = decode(t, &ids, &n);
    if (n != want->bytes || (n && memcmp(back, want->text, n) != 0))
        fail_msg("line %zu: decoded \"%.*s\", expected \"%.*s\"", number, (int) n, back, (int) want->bytes,
                 want->text);
    free(back);
    free(ids.id);
    jdoc_free(&d);
}

static void check_file(const struct tokenizer *t, const char *name)
{
    size_t n, at = 0, number = 0, len;
    const char *line;
    char *text = read_shared(name, &n);
    while (text_line(text, n, &at, &line, &len))
        check_line(t, line, len, ++number);
    free(text);
    assert_int_equal(number, 3000);
}

static void qwen3_ids(void **state)
{
    (void) state;
    struct tokenizer *t = open_shared("qwen3");
    assert_int_equal(tokenizer_count(t), 151669);
    assert_int_equal(tokenizer_added(t, "<|im_end|>"), 151645);
    assert_int_equal(tokenizer_added(t, "</think>"), 151668);
    assert_int_equal(tokenizer_is_special(t, 151645), 1);
    assert_int_equal(tokenizer_is_special(t, 151668), 0);
    check_file(t, "golden/tokenizer-qwen3.jsonl");
    tokenizer_close(t);
}

static void tiny_ids(void **state)
{
    (void) state;
    struct tokenizer *t = open_shared("tiny/target");
    assert_int_equal(tokenizer_count(t), 905);
    check_file(t, "golden/tokenizer-tiny.jsonl");
    tokenizer_close(t);
}

/* A directory with links to some files of ../shared/qwen3. */
static void make_dir(char *dir, const char *const *name, int n)
{
    strcpy(dir, "/tmp/outrider-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < n; i++) {
        char from[4096], rel[64], to[4096];
        snprintf(rel, sizeof rel, "qwen3/%s", name[i]);
        assert_non_null(realpath(text_shared(rel), from));
        snprintf(to, sizeof to, "%s/%s", dir, name[i]);
        assert_int_equal(symlink(from, to), 0);
    }
}

static void remove_dir(const char *dir, const char *const *name, int n)
{
    char path[4096];
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void qwen3_ids_from_vocab_and_merges(void **state)
{
    (void) state;
    static const char *const name[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    char dir[64];
    struct tokenizer *t, *json = open_shared("qwen3");
    struct err e = {0};
    make_dir(dir, name, 3);
    if (tokenizer_open(&t, dir, &e) < 0)
        fail_msg("%s", e.text);
    assert_true(tokenizer_hash(t) == tokenizer_hash(json));
    if (tokenizer_compare(t, json, &e) != 0)
        fail_msg("%s", e.text);
    for (int32_t id = 0; id < tokenizer_count(t); id++)
        assert_int_equal(tokenizer_is_special(t, id), tokenizer_is_special(json, id));
    check_file(t, "golden/tokenizer-qwen3.jsonl");
    tokenizer_close(t);
    tokenizer_close(json);
    remove_dir(dir, name, 3);
}

static void different_tokenizers_are_told_apart(void **state)
{
    (void) state;
    struct tokenizer *a = open_shared("qwen3"), *b = open_shared("tiny/target");
    struct err e = {0};
    assert_int_equal(tokenizer_compare(a, b, &e), ST_PRECONDITION);
    assert_non_null(strstr(e.text, "differ"));
    assert_true(tokenizer_hash(a) != tokenizer_hash(b));
    tokenizer_close(a);
    tokenizer_close(b);
}

/* One case of llama.cpp's vectors: a line of ids.  llama.cpp does no NFC; the texts are NFC already. */
static void check_vector(const struct tokenizer *t, const char *text, size_t n, const char *line, size_t len)
{
    struct tokens ids = {0};
    struct err e = {0};
    struct jout got = {0};
    if (tokenizer_encode(t, text, n, 0, &ids, &e) < 0)
        fail_msg("%s", e.text);
    for (size_t i = 0; i < ids.n; i++) {
        jout_str(&got, " ");
        jout_int(&got, ids.id[i]);
    }
    if (got.n != len || (len && memcmp(got.p, line, len) != 0))
        fail_msg("\"%.*s\": ids%.*s, expected%.*s", (int) n, text, (int) got.n, got.p ? got.p : "", (int) len,
                 line);
    jout_free(&got);
    free(ids.id);
}

static void llamacpp_vectors(void **state)
{
    (void) state;
    static const char mark[] = "\n__ggml_vocab_test__\n";
    struct tokenizer *t = open_shared("qwen3");
    size_t bytes, at = 0, len, cases = 0;
    char *in = read_shared("qwen3/llamacpp-qwen2.inp", &bytes);
    char *out = read_shared("qwen3/llamacpp-qwen2.out", &bytes);
    const char *line;
    for (char *p = in, *end; (end = strstr(p, mark)); p = end + sizeof mark - 1, cases++) {
        assert_true(text_line(out, bytes, &at, &line, &len));
        check_vector(t, p, (size_t) (end - p), line, len);
    }
    assert_int_equal(cases, 46); /* the 47th is the empty text after the last mark: no ids, no line */
    free(in);
    free(out);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_ids),
        cmocka_unit_test(tiny_ids),
        cmocka_unit_test(qwen3_ids_from_vocab_and_merges),
        cmocka_unit_test(different_tokenizers_are_told_apart),
        cmocka_unit_test(llamacpp_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tokenizer.c - the tokenizer's rules on a made-up vocabulary: pieces, added tokens, NFC, words, merging, refusals. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "tests/lib/smalltok.h"

static int set_up(void **state)
{
    *state = smalltok_open();
    return 0;
}

static int tear_down(void **state)
{
    tokenizer_close(*state);
    return 0;
}

/* The ids as text, tokens between bars: "|the| the|". */
static char *shown(const struct tokenizer *t, const struct tokens *ids)
{
    static char s[4096];
    size_t k = 0;
    s[k++] = '|';
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *p = tokenizer_bytes(t, ids->id[i], &n);
        assert_non_null(p);
        if (k + n + 2 > sizeof s)
            break;
        memcpy(s + k, p, n);
        k += n;
        s[k++] = '|';
    }
    s[k] = '\0';
    return s;
}

static void expect(const struct tokenizer *t, const char *text, size_t n, int flags, const char *want)
{
    struct tokens ids = {0};
    struct err e = {0};
    if (tokenizer_encode(t, text, n, flags, &ids, &e) < 0)
        fail_msg("%s", e.text);
    assert_string_equal(shown(t, &ids), want);
    free(ids.id);
}

static void expect_str(const struct tokenizer *t, const char *text, const char *want)
{
    expect(t, text, strlen(text), 0, want);
}

static void words_split_as_qwen_does(void **state)
{
    const struct tokenizer *t = *state;
    expect_str(t, "the the", "|the| the|");
    expect_str(t, "hello  the", "|hello| | the|");
    expect_str(t, "the    ", "|the|    |");
    expect_str(t, "it's", "|i|t|'s|");
    expect_str(t, "x'se", "|x|'s|e|");
    /* U+017F folds to s: an apostrophe and it are a word, so "\xbf" and "e" do not merge. */
    expect_str(t, "x'\xc5\xbf\x65", "|x|'|\xc5|\xbf|e|");
    expect_str(t, "aaaa1212", "|aaaa|1|2|1|2|"); /* digits one by one: no "12" */
    expect_str(t, ".\n\n", "|.|\n\n|");
    expect_str(t, "\n\n \n", "|\n\n| |\n|");
    expect(t, "a\0b", 3, 0, "|a|\0b|");
}

/* U+180E is no white space to Hugging Face, though PCRE2's \s holds it: it makes one word with "!"; U+0085 is. */
static void white_space_is_unicodes(void **state)
{
    const struct tokenizer *t = *state;
    expect_str(t, "\xe1\xa0\x8e!", "|\xe1|\xa0|\x8e!|");
    expect_str(t, "\xc2\x85!", "|\xc2|\x85|!|");
}

/* U+31385 is a letter since Unicode 15: it makes no word with "!". */
static void young_letters_are_letters(void **state)
{
    expect_str(*state, "\xf0\xb1\x8e\x85!", "|\xf0|\xb1|\x8e|\x85|!|");
}

static void text_is_normalised(void **state)
{
    const struct tokenizer *t = *state;
    expect_str(t, "e\xcc\x81", "|\xc3\xa9|");
    expect_str(t, "the\xcc\x81 e", "|th|\xc3\xa9| |e|");
    expect_str(t, "\xe1\x84\x80\xe1\x85\xa1", "|\xea\xb0\x80|");                     /* Hangul G + A */
    expect_str(t, "\xea\xb0\x80\xe1\x86\xa7", "|\xea\xb0\x80|\xe1|\x86|\xa7|");      /* U+11A7 stays */
    expect_str(t, "q\xcc\x81\xcc\xa3", "|q|\xcc|\xa3|\xcc|\x81|");                   /* dot below first */
    expect_str(t, "q\xcc\x81\xdf\xbd\xcc\xa3", "|q|\xcc|\x81|\xdf|\xbd|\xcc|\xa3|"); /* across U+07FD: not */
    expect_str(t, "\xe2\x84\xab", "|\xc3|\x85|");                                    /* Angstrom sign */
}

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

/* Text that takes hours where time grows with the square of its length. */
static void hostile_text_takes_linear_time(void **state)
{
    const struct tokenizer *t = *state;
    enum { N = 1 << 20 };
    static const char *const unit[] = {"a",           "ab", " ", "\n", "'", "<", "<think", "\xcc\x81\xcc\xa3",
                                       "\xe1\x85\xa1"};
    char *p = malloc(N);
    double start = cpu_s();
    for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
        size_t len = strlen(unit[u]), n = N / len * len;
        struct tokens ids = {0};
        struct err e = {0};
        for (size_t i = 0; i < n; i += len)
            memcpy(p + i, unit[u], len);
        if (tokenizer_encode(t, p, n, TOKENIZER_ADDED, &ids, &e) < 0)
            fail_msg("%s", e.text);
        if (u == 0)
            assert_int_equal(ids.n, N / 8);
        free(ids.id);
    }
    free(p);
    assert_true(cpu_s() - start < 60); /* about 2 s; 20 under sanitizers */
}

/* The rule itself, at its slowest: the leftmost pair of the lowest rank, again and again. */
static size_t merge_slowly(const struct tokenizer *t, const char *p, size_t n, int32_t *id)
{
    for (size_t i = 0; i < n; i++)
        id[i] = t->byte_id[(unsigned char) p[i]];
    for (;;) {
        int32_t best = t->n_merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (int32_t r = 0; r < best; r++)
                if (t->merge[r].left == id[i] && t->merge[r].right == id[i + 1]) {
                    best = r;
                    at = i;
                }
        if (best == t->n_merges)
            return n;
        id[at] = t->merge[best].to;
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
}

static void merging_equals_the_rule(void **state)
{
    const struct tokenizer *t = *state;
    static const char *const alphabet[] = {"aaaaabbthehellingthingo", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
                                           "ab", "qrsuzzzzzz"};
    uint64_t x = 3;
    for (int round = 0; round < 3000; round++) {
        const char *letters = alphabet[round % 4];
        char p[200];
        int32_t want[200];
        struct tokens ids = {0};
        struct err e = {0};
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        size_t n = 1 + (x >> 40) % (round % 5 ? 200 : 70);
        for (size_t i = 0; i < n; i++) {
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
            p[i] = letters[(x >> 33) % strlen(letters)];
        }
        size_t n_want = merge_slowly(t, p, n, want);
        assert_int_equal(tokenizer_encode(t, p, n, 0, &ids, &e), 0);
        assert_int_equal(ids.n, n_want);
        assert_memory_equal(ids.id, want, n_want * sizeof *want);
        free(ids.id);
    }
}

static void added_tokens_only_where_asked(void **state)
{
    const struct tokenizer *t = *state;
    static const char text[] = "the<|im_end|> the";
    struct tokens ids = {0};
    expect(t, text, sizeof text - 1, TOKENIZER_ADDED, "|the|<|im_end|>| the|");
    expect(t, text, sizeof text - 1, 0, "|the|<||i|m|_|e|n|d||>| the|");
    assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_ADDED, &ids, NULL), 0);
    assert_int_equal(ids.id[1], smalltok_added_id(SMALLTOK_STOP));
    free(ids.id);
}

static void the_longest_leftmost_added_token_wins(void **state)
{
    const struct tokenizer *t = *state;
    expect(t, "<think>in<think>ing", 19, TOKENIZER_ADDED, "|<think>|in|<think>ing|");
    expect(t, "<<think>", 8, TOKENIZER_ADDED, "|<|<think>|");
    expect(t, "<think<|im_end|>", 16, TOKENIZER_ADDED, "|<|th|in|k|<|im_end|>|");
}

/* Normalising stops at an added token: the accent behind it has nothing to join. */
static void added_tokens_are_found_before_nfc(void **state)
{
    const struct tokenizer *t = *state;
    expect(t, "e<think>\xcc\x81", 10, TOKENIZER_ADDED, "|e|<think>|\xcc|\x81|");
    expect(t, "<think>\xcc\xb8", 9, TOKENIZER_ADDED, "|<think>|\xcc|\xb8|");
}

static void expect_pieces(const struct tokenizer *t, const struct piece *p, size_t n, const char *want)
{
    struct tokens ids = {0};
    struct err e = {0};
    if (tokenizer_encode_pieces(t, p, n, &ids, &e) < 0)
        fail_msg("%s", e.text);
    assert_string_equal(shown(t, &ids), want);
    free(ids.id);
}

static struct piece piece(const char *s, int added)
{
    return (struct piece){s, strlen(s), added};
}

static void pieces_are_tokenized_as_one_text(void **state)
{
    const struct tokenizer *t = *state;
    struct piece words[] = {piece("t", 1), piece("h", 0), piece("", 1), piece("e the", 0)};
    struct piece accent[] = {piece("e", 1), piece("\xcc", 0), piece("\x81", 1)};
    expect_pieces(t, words, 4, "|the| the|");
    expect_pieces(t, accent, 3, "|\xc3\xa9|");
    expect_pieces(t, NULL, 0, "|");
}

static void a_user_cannot_type_a_control_token(void **state)
{
    const struct tokenizer *t = *state;
    struct piece chat[] = {piece("<|im_start|>", 1), piece("the<|im_end|>", 0), piece("<|im_end|>", 1)};
    struct piece split_by_user[] = {piece("<|im", 1), piece("_end", 0), piece("|>", 1)};
    struct piece finished_by_user[] = {piece("<|im_en", 1), piece("d|>", 0)};
    struct piece begun_by_user[] = {piece("<|im_en", 0), piece("d|>", 1)};
    struct piece longer_by_user[] = {piece("<think>", 1), piece("ing", 0)};
    struct piece run[] = {piece("<|im", 1), piece("_en", 1), piece("d|>", 1)};
    expect_pieces(t, chat, 3, "|<|im_start|>|the|<||i|m|_|e|n|d||>|<|im_end|>|");
    expect_pieces(t, split_by_user, 3, "|<||i|m|_|e|n|d||>|");
    expect_pieces(t, finished_by_user, 2, "|<||i|m|_|e|n|d||>|");
    expect_pieces(t, begun_by_user, 2, "|<||i|m|_|e|n|d||>|");
    expect_pieces(t, longer_by_user, 2, "|<think>|ing|");
    expect_pieces(t, run, 3, "|<|im_end|>|");
}

static void bad_utf8_is_refused_with_its_place(void **state)
{
    const struct tokenizer *t = *state;
    struct tokens ids = {0};
    struct err e = {0};
    struct piece cut[] = {piece("the", 1), piece("a\xe2\x82", 0), piece("b", 0)};
    assert_int_equal(tokenizer_encode(t, "the", 3, 0, &ids, &e), 0);
    assert_int_equal(tokenizer_encode(t, "the \xff", 5, 0, &ids, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "byte 4 (0xff)"));
    assert_int_equal(tokenizer_encode_pieces(t, cut, 3, &ids, &e), ST_INPUT);
    assert_non_null(strstr(e.text, "byte 4 (0xe2)"));
    assert_int_equal(ids.n, 1); /* what was there stays */
    free(ids.id);
}

static void a_text_too_long_is_refused(void **state)
{
    struct tokens ids = {0};
    struct err e = {0};
    struct piece two[] = {{"a", 1, 0}, {"a", TOKENIZER_TEXT_MAX, 0}};
    assert_int_equal(tokenizer_encode(*state, "a", (size_t) TOKENIZER_TEXT_MAX + 1, 0, &ids, &e), ST_LIMIT);
    assert_int_equal(tokenizer_encode_pieces(*state, two, 2, &ids, &e), ST_LIMIT);
    assert_null(ids.id);
}

static void tokens_have_bytes_and_kinds(void **state)
{
    const struct tokenizer *t = *state;
    size_t n;
    int32_t stop = smalltok_added_id(SMALLTOK_STOP), think = smalltok_added_id(SMALLTOK_THINK);
    assert_int_equal(tokenizer_count(t), smalltok_added_id(SMALLTOK_N_ADDED));
    assert_int_equal(tokenizer_added(t, "<|im_end|>"), stop);
    assert_int_equal(tokenizer_added(t, "<|im_end|"), -1);
    assert_int_equal(tokenizer_added(t, "<|im_end|>x"), -1);
    assert_int_equal(tokenizer_added(t, "the"), -1);
    assert_int_equal(tokenizer_added(t, ""), -1);
    assert_int_equal(tokenizer_is_special(t, stop), 1);
    assert_int_equal(tokenizer_is_special(t, think), 0);
    assert_int_equal(tokenizer_is_special(t, -1), 0);
    assert_int_equal(tokenizer_is_special(t, 1 << 30), 0);
    assert_non_null(tokenizer_bytes(t, 0, &n));
    assert_int_equal(n, 1);
    assert_null(tokenizer_bytes(t, tokenizer_count(t), &n));
    assert_int_equal(n, 0);
    assert_null(tokenizer_bytes(t, -1, &n));
}

/* --- files --- */

static struct vocab_text text_of(const struct jout *o, const char *label)
{
    return (struct vocab_text){label, o->p, o->n};
}

static void every_form_of_file_gives_the_same(void **state)
{
    const struct tokenizer *t = *state;
    struct tokenizer *pairs = NULL, *three = NULL;
    struct jout json = {0}, vocab = {0}, merges = {0}, config = {0};
    struct err e = {0};
    smalltok_json(&json, 1);
    smalltok_vocab(&vocab);
    smalltok_merges(&merges);
    smalltok_config(&config);
    if (tokenizer__open_json(&pairs, text_of(&json, "json"), &e) < 0 ||
        tokenizer__open_vocab(&three, text_of(&vocab, "vocab"), text_of(&merges, "merges"),
                              text_of(&config, "config"), &e) < 0)
        fail_msg("%s", e.text);
    assert_true(tokenizer_hash(t) == tokenizer_hash(pairs));
    assert_true(tokenizer_hash(t) == tokenizer_hash(three));
    assert_int_equal(tokenizer_compare(t, pairs, &e), 0);
    assert_int_equal(tokenizer_compare(t, three, &e), 0);
    tokenizer_close(pairs);
    tokenizer_close(three);
    jout_free(&json);
    jout_free(&vocab);
    jout_free(&merges);
    jout_free(&config);
}

/* Copies text with the first `from` replaced; fails the test where it is not there. */
static void replace(struct jout *out, const struct jout *text, const char *from, const char *to)
{
    const char *at = memmem(text->p, text->n, from, strlen(from));
    if (!at)
        fail_msg("\"%s\" is not in the file", from);
    jout_add(out, text->p, (size_t) (at - text->p));
    jout_str(out, to);
    at += strlen(from);
    jout_add(out, at, text->n - (size_t) (at - text->p));
}

static const struct {
    const char *from, *to;
    int status;
    const char *why;
} bad_json[] = {
    {"\"NFC\"", "\"NFKC\"", ST_UNSUPPORTED, "normalizer.type is NFKC"},
    {"{\"type\": \"NFC\"}", "null", ST_UNSUPPORTED, "normalizer.type is missing"},
    {"\"BPE\"", "\"Unigram\"", ST_UNSUPPORTED, "model.type is Unigram"},
    {"\"byte_fallback\": false", "\"byte_fallback\": true", ST_UNSUPPORTED, "model.byte_fallback is true"},
    {"\"ignore_merges\": false", "\"ignore_merges\": true", ST_UNSUPPORTED, "model.ignore_merges is true"},
    {"\"dropout\": null", "\"dropout\": 0.1", ST_UNSUPPORTED, "model.dropout is 0.1"},
    {"\"unk_token\": null", "\"unk_token\": \"<unk>\"", ST_UNSUPPORTED, "model.unk_token is <unk>"},
    {"\"end_of_word_suffix\": \"\"", "\"end_of_word_suffix\": \"</w>\"", ST_UNSUPPORTED,
     "end_of_word_suffix is </w>"},
    {"(?i:'s", "(?i:'x", ST_UNSUPPORTED, "Split.pattern.Regex is"},
    {"\"Isolated\"", "\"Removed\"", ST_UNSUPPORTED, "Split.behavior is Removed"},
    {"\"invert\": false", "\"invert\": true", ST_UNSUPPORTED, "Split.invert is true"},
    {"\"type\": \"Sequence\"", "\"type\": \"Whitespace\"", ST_UNSUPPORTED,
     "pre_tokenizer.type is Whitespace"},
    {"\"add_prefix_space\": false", "\"add_prefix_space\": true", ST_UNSUPPORTED,
     "ByteLevel.add_prefix_space is true"},
    {"\"use_regex\": false", "\"use_regex\": true", ST_UNSUPPORTED, "ByteLevel.use_regex must be false"},
    {"\"post_processor\": {\"type\": \"ByteLevel\"}",
     "\"post_processor\": {\"type\": \"TemplateProcessing\"}", ST_UNSUPPORTED,
     "post_processor.type is TemplateProcessing"},
    {"\"decoder\": {\"type\": \"ByteLevel\"}", "\"decoder\": null", ST_UNSUPPORTED,
     "decoder.type is missing"},
    {"\"lstrip\": false", "\"lstrip\": true", ST_UNSUPPORTED, "has lstrip: true"},
    {"\"rstrip\": false", "\"rstrip\": true", ST_UNSUPPORTED, "has rstrip: true"},
    {"\"single_word\": false", "\"single_word\": true", ST_UNSUPPORTED, "has single_word: true"},
    {"\"normalized\": false", "\"normalized\": true", ST_UNSUPPORTED, "has normalized: true"},
    {"\"!\": 33", "\"!\": 34", ST_FORMAT, "have the same id 34"},
    {"\"!\": 33", "\"!\": -1", ST_FORMAT, "has the id -1"},
    {"\"!\": 33", "\"!\": 99999999", ST_FORMAT, "has the id 99999999"},
    {"\"!\": 33", "\"!\": \"33\"", ST_FORMAT, "is a string; expected an integer"},
    {"\"!\": 33", "\"!\": 33.0", ST_FORMAT, "is a number; expected an integer"},
    {"\"!\": 33", "\"!!\": 33", ST_FORMAT, "no token for the byte 0x21"},
    {"\"!\": 33", "\"! \": 33", ST_FORMAT, "is not written in byte-level BPE's characters"},
    {"\"!\": 33", "\"!\": 33, \"\": 400", ST_FORMAT, "token 400 (\"\") has 0 bytes"},
    {"\"!\": 33", "\"!\": 33, \"!\": 33", ST_FORMAT, "\"!\" twice"},
    {"\"t h\"", "\"t q\"", ST_FORMAT, "merge 0 (\"t\" and \"q\"): what they make is not in the vocabulary"},
    {"\"t h\"", "\"zz h\"", ST_FORMAT, "the first is not in the vocabulary"},
    {"\"t h\"", "\"t zz\"", ST_FORMAT, "the second is not in the vocabulary"},
    {"\"t h\"", "\"t h\", \"t h\"", ST_FORMAT, "merge 1 (\"t\" and \"h\") is listed twice"},
    {"\"t h\"", "\"th\"", ST_FORMAT, "merge 0 is \"th\"; expected two tokens with one space"},
    {"\"t h\"", "\"t h e\"", ST_FORMAT, "expected two tokens with one space"},
    {"\"t h\"", "\" h\"", ST_FORMAT, "must be two tokens"},
    {"\"t h\"", "\"\"", ST_FORMAT, "expected two tokens with one space"},
    {"\"t h\"", "[\"t\"]", ST_FORMAT, "merge 0 is an array; expected"},
    {"\"t h\"", "[\"t\", 1]", ST_FORMAT, "merge 0 is an array; expected"},
    {"\"t h\"", "7", ST_FORMAT, "merge 0 is a number; expected"},
    {"\"added_tokens\": [", "\"added_tokens\": 5, \"x\": [", ST_FORMAT, "added_tokens is a number"},
    {"\"added_tokens\": [", "\"added_tokens\": [7, ", ST_FORMAT, "added_tokens[0] has no integer id"},
    {"\"<|im_end|>\"", "5", ST_FORMAT, "is a number; expected a string"},
    {"\"<|im_end|>\"", "\"<|im_start|>\"", ST_FORMAT, "listed twice"},
    {"\"<|im_end|>\"", "\"the\"", ST_FORMAT, "in the vocabulary"},
    {"\"<|im_end|>\"", "\"\"", ST_FORMAT, "has 0 bytes"},
    {"\"vocab\": {", "\"vocab\": 3, \"x\": {", ST_FORMAT, "model.vocab is a number"},
    {"\"merges\": [", "\"merges\": {}, \"x\": [", ST_FORMAT, "model.merges is an object"},
    {"\"version\"", "version", ST_FORMAT, "malformed JSON at byte 1"},
};

static void malformed_files_are_refused_by_name(void **state)
{
    (void) state;
    struct jout good = {0};
    smalltok_json(&good, 0);
    for (size_t i = 0; i < sizeof bad_json / sizeof *bad_json; i++) {
        struct tokenizer *t;
        struct jout bad = {0};
        struct err e = {0};
        replace(&bad, &good, bad_json[i].from, bad_json[i].to);
        int st = tokenizer__open_json(&t, text_of(&bad, "DIR/tokenizer.json"), &e);
        assert_null(t);
        if (st != bad_json[i].status || !strstr(e.text, bad_json[i].why) ||
            !strstr(e.text, "DIR/tokenizer.json"))
            fail_msg("%s -> %s: %d \"%s\"; expected \"%s\"", bad_json[i].from, bad_json[i].to, st, e.text,
                     bad_json[i].why);
        jout_free(&bad);
    }
    jout_free(&good);
}

static const struct {
    int file; /* 0 vocab, 1 merges, 2 config */
    const char *from, *to;
    int status;
    const char *why;
} bad_three[] = {
    {0, "\"!\": 33", "\"!\": 34", ST_FORMAT, "have the same id 34"},
    {0, "{", "[", ST_FORMAT, "DIR/vocab.json: malformed JSON"},
    {1, "t h\n", "t  h\n", ST_FORMAT, "DIR/merges.txt: merge 0 is"},
    {1, "t h\n", "t h\nt h\n", ST_FORMAT, "listed twice"},
    {1, "t h\n", "t \xff\n", ST_FORMAT, "DIR/merges.txt: not UTF-8 at byte 16"},
    {2, "Qwen2Tokenizer", "LlamaTokenizer", ST_UNSUPPORTED,
     "DIR/tokenizer_config.json: tokenizer_class is LlamaTokenizer"},
    {2, "\"<|im_end|>\"", "null", ST_FORMAT, "is null; expected a string"},
    {2, "\"added_tokens_decoder\": {", "\"added_tokens_decoder\": [], \"x\": {", ST_FORMAT,
     "is an array; expected an object"},
    {2, "\"added_tokens_decoder\": {", "\"added_tokens_decoder\": {\"x\": {}, ", ST_FORMAT,
     "has the key \"x\"; expected an id"},
};

static void malformed_vocab_and_merges_are_refused(void **state)
{
    (void) state;
    static const char *const label[] = {"DIR/vocab.json", "DIR/merges.txt", "DIR/tokenizer_config.json"};
    struct jout good[3] = {{0}};
    smalltok_vocab(&good[0]);
    smalltok_merges(&good[1]);
    smalltok_config(&good[2]);
    for (size_t i = 0; i < sizeof bad_three / sizeof *bad_three; i++) {
        struct tokenizer *t;
        struct jout bad = {0};
        struct err e = {0};
        struct vocab_text f[3];
        replace(&bad, &good[bad_three[i].file], bad_three[i].from, bad_three[i].to);
        for (int k = 0; k < 3; k++)
            f[k] = text_of(k == bad_three[i].file ? &bad : &good[k], label[k]);
        int st = tokenizer__open_vocab(&t, f[0], f[1], f[2], &e);
        assert_null(t);
        if (st != bad_three[i].status || !strstr(e.text, bad_three[i].why))
            fail_msg("case %zu: %d \"%s\"; expected \"%s\"", i, st, e.text, bad_three[i].why);
        jout_free(&bad);
    }
    for (int k = 0; k < 3; k++)
        jout_free(&good[k]);
}

static void a_directory_without_tokenizer_is_refused(void **state)
{
    (void) state;
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tokenizer_open(&t, "/nonexistent", &e), ST_NOTFOUND);
    assert_null(t);
    assert_non_null(strstr(e.text, "vocab.json and merges.txt"));
}

static void differences_are_named(void **state)
{
    static const struct {
        const char *from, *to, *why;
    } change[] = {
        {"\"<think>\"", "\"<Think>\"",
         "is the added token \"<think>\" in one, the added token \"<Think>\" in the other"},
        {"\"t h\", \"th e\"", "\"th e\", \"t h\"",
         "merge 0 joins \"t\" and \"h\" in one, \"th\" and \"e\" in the other"},
        {", \"th ing\"]", "]", "one has 47 merges, the other 46"},
        {"\"added_tokens\": [", "\"added_tokens\": [{\"id\": 999, \"content\": \"<new>\"}, ", "ids"},
    };
    struct jout good = {0};
    smalltok_json(&good, 0);
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        struct tokenizer *t;
        struct jout other = {0};
        struct err e = {0};
        replace(&other, &good, change[i].from, change[i].to);
        if (tokenizer__open_json(&t, text_of(&other, "other"), &e) < 0)
            fail_msg("%s", e.text);
        assert_int_equal(tokenizer_compare(*state, t, &e), ST_PRECONDITION);
        if (!strstr(e.text, change[i].why))
            fail_msg("\"%s\" does not say \"%s\"", e.text, change[i].why);
        assert_true(tokenizer_hash(*state) != tokenizer_hash(t));
        tokenizer_close(t);
        jout_free(&other);
    }
    jout_free(&good);
}

/* --- threads --- */

static void *encode_often(void *arg)
{
    static const char text[] =
        "the thing hello <|im_end|> "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xcc\x81";
    uintptr_t h = 0;
    for (int i = 0; i < 300; i++) {
        struct tokens ids = {0};
        if (tokenizer_encode(arg, text, sizeof text - 1, i % 2, &ids, NULL) < 0)
            return NULL;
        for (size_t k = 0; k < ids.n; k++)
            h = h * 31 + (uintptr_t) ids.id[k];
        free(ids.id);
    }
    return (void *) h;
}

static void any_thread_may_encode(void **state)
{
    pthread_t a, b;
    void *x, *y;
    assert_int_equal(pthread_create(&a, NULL, encode_often, *state), 0);
    assert_int_equal(pthread_create(&b, NULL, encode_often, *state), 0);
    pthread_join(a, &x);
    pthread_join(b, &y);
    assert_non_null(x);
    assert_ptr_equal(x, y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_split_as_qwen_does),
        cmocka_unit_test(white_space_is_unicodes),
        cmocka_unit_test(young_letters_are_letters),
        cmocka_unit_test(text_is_normalised),
        cmocka_unit_test(hostile_text_takes_linear_time),
        cmocka_unit_test(merging_equals_the_rule),
        cmocka_unit_test(added_tokens_only_where_asked),
        cmocka_unit_test(the_longest_leftmost_added_token_wins),
        cmocka_unit_test(added_tokens_are_found_before_nfc),
        cmocka_unit_test(pieces_are_tokenized_as_one_text),
        cmocka_unit_test(a_user_cannot_type_a_control_token),
        cmocka_unit_test(bad_utf8_is_refused_with_its_place),
        cmocka_unit_test(a_text_too_long_is_refused),
        cmocka_unit_test(tokens_have_bytes_and_kinds),
        cmocka_unit_test(every_form_of_file_gives_the_same),
        cmocka_unit_test(malformed_files_are_refused_by_name),
        cmocka_unit_test(malformed_vocab_and_merges_are_refused),
        cmocka_unit_test(a_directory_without_tokenizer_is_refused),
        cmocka_unit_test(differences_are_named),
        cmocka_unit_test(any_thread_may_encode),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

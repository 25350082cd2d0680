/* smalltok.c - the made-up tokenizer of smalltok.h. */
#include "tests/lib/smalltok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/utf8.h"

const char *const smalltok_added[SMALLTOK_N_ADDED] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                                      "<think>", "<think>ing"};

static const char *const merges[][2] = {
    {"t", "h"},       {"th", "e"},  {" ", "the"},  {"i", "n"},       {"in", "g"},          {"a", "a"},
    {"aa", "aa"},     {" ", " "},   {"  ", "  "},  {"\n", "\n"},     {"'", "s"},           {"h", "e"},
    {"l", "l"},       {"he", "ll"}, {"hell", "o"}, {"\xc3", "\xa9"}, {"e", "\xcc"},        {"<", "|"},
    {"|", ">"},       {"<|", "i"},  {"<|i", "m"},  {"\xea", "\xb0"}, {"\xea\xb0", "\x80"}, {"x", "'"},
    {"aaaa", "aaaa"}, {"a", "b"},   {"ab", "ab"},  {"b", "a"},       {"\xe4\xbd", "\xa0"}, {"\xe4", "\xbd"},
    {"1", "2"},       {".", "\n"},  {"\xbf", "e"}, {"\x8e", "!"},    {"\x85", "!"},        {"b", "b"},
    {"a", "ba"},      {"bb", "a"},  {"ab", "a"},   {"aba", "b"},     {"e", "l"},           {"aa", "b"},
    {"b", "aa"},      {"q", "r"},   {"qr", "s"},   {"s", "u"},       {"th", "ing"},
};

enum { N_MERGES = sizeof merges / sizeof *merges };

static void put_byte(struct jout *o, unsigned char b)
{
    char s[4];
    uint32_t extra = 256, c = 0;
    for (uint32_t k = 0; k <= b; k++) {
        int visible = (k >= 33 && k <= 126) || (k >= 161 && k <= 172) || k >= 174;
        c = visible ? k : extra++;
    }
    jout_add(o, s, (size_t) utf8_put(c, s));
}

static void put_token(struct jout *o, const char *p)
{
    for (; *p; p++)
        put_byte(o, (unsigned char) *p);
}

static void put_quoted(struct jout *o, const char *p)
{
    struct jout token = {0};
    put_token(&token, p);
    jout_quote(o, token.p, token.n);
    jout_free(&token);
}

/* Are these bytes made by an earlier merge? */
static int is_known(int i)
{
    char a[64], b[64];
    snprintf(a, sizeof a, "%s%s", merges[i][0], merges[i][1]);
    for (int k = 0; k < i; k++) {
        snprintf(b, sizeof b, "%s%s", merges[k][0], merges[k][1]);
        if (strcmp(a, b) == 0)
            return 1;
    }
    return 0;
}

void smalltok_vocab(struct jout *o)
{
    int64_t id = 256;
    jout_str(o, "{");
    for (int b = 0; b < 256; b++) {
        struct jout token = {0};
        put_byte(&token, (unsigned char) b);
        jout_str(o, b ? ", " : "");
        jout_quote(o, token.p, token.n);
        jout_str(o, ": ");
        jout_int(o, b);
        jout_free(&token);
    }
    for (int i = 0; i < N_MERGES; i++) {
        char whole[64];
        if (is_known(i))
            continue;
        snprintf(whole, sizeof whole, "%s%s", merges[i][0], merges[i][1]);
        jout_str(o, ", ");
        put_quoted(o, whole);
        jout_str(o, ": ");
        jout_int(o, id++);
    }
    jout_str(o, "}");
}

int32_t smalltok_added_id(int i)
{
    int32_t id = 256 + i;
    for (int k = 0; k < N_MERGES; k++)
        id += !is_known(k);
    return id;
}

void smalltok_merges(struct jout *o)
{
    jout_str(o, "#version: 0.2\n");
    for (int i = 0; i < N_MERGES; i++) {
        put_token(o, merges[i][0]);
        jout_str(o, " ");
        put_token(o, merges[i][1]);
        jout_str(o, "\n");
    }
}

static void put_fields(struct jout *o, int i)
{
    jout_str(o, "\"content\": ");
    jout_quote(o, smalltok_added[i], strlen(smalltok_added[i]));
    jout_str(o, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                "\"special\": ");
    jout_str(o, i <= SMALLTOK_STOP ? "true}" : "false}");
}

void smalltok_config(struct jout *o)
{
    jout_str(o, "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"added_tokens_decoder\": {");
    for (int i = 0; i < SMALLTOK_N_ADDED; i++) {
        jout_str(o, i ? ", \"" : "\"");
        jout_int(o, smalltok_added_id(i));
        jout_str(o, "\": {");
        put_fields(o, i);
    }
    jout_str(o, "}}");
}

static void put_merge(struct jout *o, int i, int pairs)
{
    struct jout line = {0};
    if (pairs) {
        jout_str(o, "[");
        put_quoted(o, merges[i][0]);
        jout_str(o, ", ");
        put_quoted(o, merges[i][1]);
        jout_str(o, "]");
        return;
    }
    put_token(&line, merges[i][0]);
    jout_str(&line, " ");
    put_token(&line, merges[i][1]);
    jout_quote(o, line.p, line.n);
    jout_free(&line);
}

void smalltok_json(struct jout *o, int pairs)
{
    jout_str(o, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
    for (int i = 0; i < SMALLTOK_N_ADDED; i++) {
        jout_str(o, i ? ", {\"id\": " : "{\"id\": ");
        jout_int(o, smalltok_added_id(i));
        jout_str(o, ", ");
        put_fields(o, i);
    }
    jout_str(o, "], \"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
                "\"pretokenizers\": ["
                "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    jout_quote(o, tokenizer__pattern, strlen(tokenizer__pattern));
    jout_str(
        o, "}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", "
           "\"add_prefix_space\": false, "
           "\"trim_offsets\": false, \"use_regex\": false}]}, \"post_processor\": {\"type\": \"ByteLevel\"}, "
           "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
           "\"unk_token\": "
           "null, \"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"\", \"fuse_unk\": false, "
           "\"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": ");
    smalltok_vocab(o);
    jout_str(o, ", \"merges\": [");
    for (int i = 0; i < N_MERGES; i++) {
        jout_str(o, i ? ", " : "");
        put_merge(o, i, pairs);
    }
    jout_str(o, "]}}");
}

struct tokenizer *smalltok_open(void)
{
    struct jout o = {0};
    struct tokenizer *t;
    struct err e = {0};
    smalltok_json(&o, 0);
    if (tokenizer__open_json(&t, (struct vocab_text){"smalltok", o.p, o.n}, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    jout_free(&o);
    return t;
}

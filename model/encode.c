/* encode.c - text to ids: added tokens are split off, each stretch between them is normalised, split into words by Qwen's
 * pattern, and each word merged.
 *
 * Refuses text that is not UTF-8, with the offset of the first bad byte.  Any thread: all that changes is in struct encoder.
 *
 * The pattern is Qwen's with its classes spelt out, so that they mean what they mean to Hugging Face (Oniguruma, Unicode 16):
 * \s there is White_Space, where PCRE2's holds U+180E too; and PCRE2 10.42 knows no letters younger than Unicode 14.
 * (?i:'s) takes U+017F for s in both.  Compared character by character with tokenizers 0.23. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

const char tokenizer__pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* clang-format off */
/* \s. */
#define WHITE \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* \p{L} and \p{N} of Unicode 16, Oniguruma's; spelt out is what Debian 12's PCRE2 (Unicode 14) does not know. */
#define YOUNG_LETTER \
    "\\x{1c89}\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}" \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}" \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}" \
    "\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}" \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}" \
    "\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}" \
    "\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define YOUNG_NUMBER \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}" \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}" \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define LETTER "\\p{L}" YOUNG_LETTER
#define NUMBER "\\p{N}" YOUNG_NUMBER
/* clang-format on */

static const char compiled_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
                                       "|[^\\r\\n" LETTER NUMBER "]?(?:\\p{L}++|[" YOUNG_LETTER "])++"
                                       "|\\p{N}|[" YOUNG_NUMBER "]"
                                       "| ?[^" WHITE LETTER NUMBER "]+[\\r\\n]*"
                                       "|[" WHITE "]*[\\r\\n]+"
                                       "|[" WHITE "]+(?![^" WHITE "])"
                                       "|[" WHITE "]+";

int tokenizer__compile(struct tokenizer *t, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    t->split = pcre2_compile((PCRE2_SPTR) compiled_pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                             &code, &at, NULL);
    if (!t->split) {
        char why[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *) why, sizeof why);
        return err_set(e, ST_UNSUPPORTED,
                       "PCRE2 does not take Qwen's pattern at %zu: %s; it needs Unicode support", at, why);
    }
    /* The pattern backs up over a run of spaces once, a step a space: linear, and more than the default limit allows for
     * a text of TOKENIZER_TEXT_MAX. */
    t->limits = pcre2_match_context_create(NULL);
    if (!t->limits)
        return err_set(e, ST_NOMEM, "out of memory for the tokenizer");
    pcre2_set_match_limit(t->limits, UINT32_MAX);
    /* Where the system forbids writable code the interpreter serves: slower, the same words. */
    pcre2_jit_compile(t->split, PCRE2_JIT_COMPLETE);
    return 0;
}

int tokenizer__reserve(struct tokens *out, size_t more)
{
    if (more <= out->cap - out->n)
        return 0;
    size_t cap = out->cap + out->cap / 2 + more + 64;
    int32_t *id = realloc(out->id, cap * sizeof *id);
    if (!id)
        return ST_NOMEM;
    out->id = id;
    out->cap = cap;
    return 0;
}

static int match_failed(struct err *e, int rc)
{
    char why[128];
    if (pcre2_get_error_message(rc, (PCRE2_UCHAR *) why, sizeof why) < 0)
        snprintf(why, sizeof why, "error %d", rc);
    return err_set(e, ST_LIMIT, "the text cannot be split into words: PCRE2 says: %s", why);
}

static int encode_words(struct encoder *c, const char *p, size_t n)
{
    PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match);
    for (size_t i = 0; i < n;) {
        int rc = pcre2_match(c->t->split, (PCRE2_SPTR) p, n, i, PCRE2_NO_UTF_CHECK, c->match, c->t->limits);
        if (rc < 0)
            return match_failed(c->e, rc);
        /* What the pattern skips is a word too (Split "Isolated"); Qwen's skips nothing and matches nothing empty. */
        size_t word = span[0] > i ? span[0] : span[1];
        if (word <= i)
            return match_failed(c->e, PCRE2_ERROR_INTERNAL);
        int st = tokenizer__word(c, p + i, word - i);
        if (st < 0)
            return err_set(c->e, st, "out of memory for a word of %zu bytes", word - i);
        i = word;
    }
    return 0;
}

/* A stretch without added tokens. */
static int encode_segment(struct encoder *c, const char *p, size_t n)
{
    const char *nfc;
    size_t n_nfc;
    if (n == 0)
        return 0;
    int st = tokenizer__nfc(c, p, n, &nfc, &n_nfc);
    if (st < 0)
        return err_set(c->e, st, "the text cannot be normalised: %s", status_text(st));
    return encode_words(c, nfc, n_nfc);
}

/* The first added token at or after *at and before end; its id or -1.  *at is where it starts, *len its length. */
static int32_t find_added(const struct tokenizer *t, const char *p, size_t *at, size_t end, size_t *len)
{
    for (size_t i = *at; i < end; i++) {
        if (!t->starts[(unsigned char) p[i]])
            continue;
        int32_t id = tokenizer__match_added(t, p + i, end - i, len);
        if (id >= 0) {
            *at = i;
            return id;
        }
    }
    return -1;
}

/* Encodes from *done up to the last added token of p[from, to), a run where they are recognised. */
static int encode_run(struct encoder *c, const char *p, size_t from, size_t to, size_t *done)
{
    size_t at = from, len;
    int32_t id;
    while ((id = find_added(c->t, p, &at, to, &len)) >= 0) {
        int st = encode_segment(c, p + *done, at - *done);
        if (st < 0)
            return st;
        if (tokenizer__reserve(c->out, 1) < 0)
            return err_set(c->e, ST_NOMEM, "out of memory");
        c->out->id[c->out->n++] = id;
        at += len;
        *done = at;
    }
    return 0;
}

static int encode_all(struct encoder *c, const char *text, const struct piece *p, size_t n)
{
    size_t done = 0, at = 0;
    for (size_t i = 0; i < n;) {
        size_t from = at;
        int added = p[i].added;
        for (; i < n && p[i].added == added; i++)
            at += p[i].bytes;
        int st = added ? encode_run(c, text, from, at, &done) : 0;
        if (st < 0)
            return st;
    }
    return encode_segment(c, text + done, at - done);
}

/* Checks the whole text, then encodes it; `text` is the pieces joined. */
static int encode_joined(const struct tokenizer *t, const char *text, size_t bytes, const struct piece *p,
                         size_t n, struct tokens *out, struct err *e)
{
    if (bytes == 0)
        return 0; /* text may be NULL */
    size_t good = utf8_check(text, bytes), before = out->n;
    if (good < bytes)
        return err_set(e, ST_INPUT, "the text is not UTF-8: byte %zu (0x%02x) cannot stand there", good,
                       (unsigned char) text[good]);
    struct encoder c = {.t = t, .out = out, .e = e, .match = pcre2_match_data_create(1, NULL)};
    int st = c.match ? encode_all(&c, text, p, n) : err_set(e, ST_NOMEM, "out of memory");
    if (st < 0)
        out->n = before;
    pcre2_match_data_free(c.match);
    jout_free(&c.nfc);
    free(c.scratch);
    return st;
}

static int too_long(size_t bytes, struct err *e)
{
    return err_set(e, ST_LIMIT, "the text has %zu bytes; at most %d are tokenized at once", bytes,
                   TOKENIZER_TEXT_MAX);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, int flags, struct tokens *out,
                     struct err *e)
{
    struct piece p = {text, bytes, (flags & TOKENIZER_ADDED) != 0};
    if (bytes > TOKENIZER_TEXT_MAX)
        return too_long(bytes, e);
    return encode_joined(t, text, bytes, &p, 1, out, e);
}

int tokenizer_encode_pieces(const struct tokenizer *t, const struct piece *p, size_t n, struct tokens *out,
                            struct err *e)
{
    struct jout text = {0};
    int st = 0;
    for (size_t i = 0; st == 0 && i < n; i++) {
        if (p[i].bytes > TOKENIZER_TEXT_MAX - text.n)
            st = too_long(text.n + p[i].bytes, e);
        else
            jout_add(&text, p[i].text, p[i].bytes);
    }
    if (st == 0 && text.status < 0)
        st = err_set(e, ST_NOMEM, "out of memory for the text");
    if (st == 0)
        st = encode_joined(t, text.p, text.n, p, n, out, e);
    jout_free(&text);
    return st;
}

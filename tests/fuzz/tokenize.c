/* tokenize.c - any bytes as text: refused where they are no UTF-8, else decode(encode(text)) is its normal form C; and pieces
 * give what the whole gives. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/utf8.h"
#include "tests/lib/smalltok.h"

enum { CUTS = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static utf8proc_uint8_t *normal_form(const void *p, size_t n, size_t *n_out)
{
    utf8proc_uint8_t *out = NULL;
    utf8proc_ssize_t k = utf8proc_map(p, (utf8proc_ssize_t) n, &out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (k < 0)
        abort();
    *n_out = (size_t) k;
    return out;
}

/* Both sides in utf8proc's form: what the tokenizer leaves apart (nfc.c) is put together in both. */
static void check_decoded(const struct tokenizer *t, const struct tokens *ids, const uint8_t *data,
                          size_t size)
{
    struct jout back = {0};
    size_t n, n_want, n_got;
    for (size_t i = 0; i < ids->n; i++) {
        const char *p = tokenizer_bytes(t, ids->id[i], &n);
        jout_add(&back, p, n);
    }
    utf8proc_uint8_t *want = normal_form(data, size, &n_want), *got = normal_form(back.p, back.n, &n_got);
    if (n_want != n_got || (n_got && memcmp(want, got, n_got) != 0))
        abort();
    free(want);
    free(got);
    jout_free(&back);
}

static void check_same(const struct tokens *a, const struct tokens *b)
{
    if (a->n != b->n || (a->n && memcmp(a->id, b->id, a->n * sizeof *a->id) != 0))
        abort();
}

static void check_pieces(const struct tokenizer *t, const uint8_t *data, size_t size,
                         const struct tokens *want, int added)
{
    struct piece p[CUTS];
    struct tokens ids = {0};
    struct err e = {0};
    size_t at = 0;
    for (size_t i = 0; i < CUTS; i++) {
        size_t end = i + 1 == CUTS ? size : size * (i + 1) / CUTS;
        p[i] = (struct piece){(const char *) data + at, end - at, added};
        at = end;
    }
    if (tokenizer_encode_pieces(t, p, CUTS, &ids, &e) < 0)
        abort();
    check_same(&ids, want);
    free(ids.id);
}

static void check_mixed(const struct tokenizer *t, const uint8_t *data, size_t size)
{
    struct piece p[2] = {{(const char *) data, size / 2, 1},
                         {(const char *) data + size / 2, size - size / 2, 0}};
    struct tokens ids = {0};
    struct err e = {0};
    if (tokenizer_encode_pieces(t, p, 2, &ids, &e) < 0)
        abort();
    check_decoded(t, &ids, data, size);
    free(ids.id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t; /* opened once: it never changes */
    if (!t)
        t = smalltok_open();
    int valid = utf8_check((const char *) data, size) == size;
    for (int added = 0; added <= 1; added++) {
        struct tokens ids = {0};
        struct err e = {0};
        int st = tokenizer_encode(t, (const char *) data, size, added ? TOKENIZER_ADDED : 0, &ids, &e);
        if (st != (valid ? 0 : ST_INPUT))
            abort();
        if (valid && !added)
            check_decoded(t, &ids, data, size);
        if (valid)
            check_pieces(t, data, size, &ids, added);
        free(ids.id);
    }
    if (valid)
        check_mixed(t, data, size);
    return 0;
}

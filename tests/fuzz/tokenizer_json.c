/* tokenizer_json.c - a tokenizer's files from anybody: opened or refused with a sentence, never a crash.
 *
 * Without a byte 0xff the input is tokenizer.json; with them it is vocab.json, merges.txt and tokenizer_config.json. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vocab_text part(const char *label, const uint8_t **p, const uint8_t *end)
{
    const uint8_t *cut = *p < end ? memchr(*p, 0xff, (size_t) (end - *p)) : NULL;
    struct vocab_text t = {label, (const char *) *p, (size_t) ((cut ? cut : end) - *p)};
    *p = cut ? cut + 1 : end;
    return t;
}

static void use(const struct tokenizer *t)
{
    static const char text[] =
        "the thing's <|im_end|> e\xcc\x81 12\n\n  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaa";
    struct tokens ids = {0};
    struct err e = {0};
    size_t n;
    if (tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_ADDED, &ids, &e) < 0)
        abort();
    for (size_t i = 0; i < ids.n; i++)
        if (!tokenizer_bytes(t, ids.id[i], &n) || n == 0)
            abort();
    free(ids.id);
    if (tokenizer_compare(t, t, &e) != 0)
        abort();
    tokenizer_close((struct tokenizer *) t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t;
    struct err e = {0};
    const uint8_t *p = data, *end = data + size;
    struct vocab_text first = part("first", &p, end);
    int st;
    if (p == end && first.n == size) {
        st = tokenizer__open_json(&t, first, &e);
    } else {
        struct vocab_text merges = part("merges", &p, end), config = part("config", &p, end);
        if (config.n == 0)
            config.p = NULL;
        st = tokenizer__open_vocab(&t, first, merges, config, &e);
    }
    if (st == 0)
        use(t);
    else if (t || e.status != st || !e.text[0])
        abort();
    return 0;
}

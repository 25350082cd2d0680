/* template.c - a chat from anybody: refused with a sentence, or rendered to pieces that are UTF-8 and can be tokenized, in
 * which no added token stands that the template did not write. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/template.h"
#include "model/utf8.h"
#include "tests/lib/smalltok.h"

enum { ARENA_BYTES = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How often s stands in the template's own words. */
static size_t written(const struct pieces *p, const char *s)
{
    size_t count = 0, n = strlen(s);
    for (size_t i = 0; i < p->n; i++)
        if (p->p[i].added)
            for (size_t k = 0; k + n <= p->p[i].bytes; k++)
                count += memcmp(p->p[i].text + k, s, n) == 0;
    return count;
}

static void check_pieces(const struct tokenizer *t, const struct pieces *p)
{
    struct tokens ids = {0};
    struct err e = {0};
    size_t stops = 0;
    int32_t stop = smalltok_added_id(SMALLTOK_STOP);
    for (size_t i = 0; i < p->n; i++)
        if (utf8_check(p->p[i].text, p->p[i].bytes) != p->p[i].bytes)
            abort();
    if (tokenizer_encode_pieces(t, p->p, p->n, &ids, &e) < 0)
        abort();
    for (size_t i = 0; i < ids.n; i++)
        stops += ids.id[i] == stop;
    if (stops != written(p, "<|im_end|>"))
        abort();
    free(ids.id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t; /* opened once: it never changes */
    struct arena a;
    struct chat c;
    struct pieces p;
    struct err e = {0};
    if (!t)
        t = smalltok_open();
    arena_init(&a, ARENA_BYTES);
    int st = template_from_json((const char *) data, size, &a, &c, &e);
    for (int which = CHAT_TEMPLATE_QWEN3; st == 0 && which <= CHAT_TEMPLATE_INSTRUCT_2507; which++)
        if ((st = template_render(which, &c, &a, &p, &e)) == 0)
            check_pieces(t, &p);
    if (st && (e.status != st || !e.text[0]))
        abort();
    arena_fini(&a);
    return 0;
}

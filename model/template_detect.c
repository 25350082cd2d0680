/* template_detect.c - which chat template a checkpoint brings, known by a hash of its exact text.
 *
 * Order as in transformers: chat_template.jinja, then chat_template in tokenizer_config.json.  A template that only looks
 * like Qwen3's is refused: a changed comma would change what the model reads. */
#include <string.h>

#include "model/jdoc.h"
#include "model/read.h"
#include "model/template.h"

static const struct {
    uint64_t hash; /* FNV-1a of the text */
    int which;
} known[] = {
    {UINT64_C(0x959a4551391a6549), CHAT_TEMPLATE_QWEN3}, /* Qwen/Qwen3-0.6B, revision c1899de2 */
};

static int by_text(const char *p, size_t n, const char *label, int *out, struct err *e)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char) p[i]) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].hash == h) {
            *out = known[i].which;
            return 0;
        }
    return err_set(e, ST_UNSUPPORTED,
                   "%.200s: this chat template (hash %016llx) is not one this build knows; if it prints what "
                   "Qwen3's does, say "
                   "--template qwen3",
                   label, (unsigned long long) h);
}

static int by_config(const struct model__file *f, int *out, struct err *e)
{
    struct jdoc d;
    struct err inner;
    int st = jdoc_parse(&d, f->data, f->bytes, &inner);
    if (st < 0)
        return err_set(e, st, "%.200s: %s", f->label, inner.text);
    const struct jnode *x = jnode_get(d.node, "chat_template");
    if (d.node->type != JNODE_OBJECT)
        st = err_set(e, ST_FORMAT, "%.200s: the file holds %s; expected a JSON object", f->label,
                     jnode_kind(d.node));
    else if (x && x->type == JNODE_STRING)
        st = by_text(x->text, x->bytes, f->label, out, e);
    else if (x && x->type != JNODE_NULL)
        st = err_set(e, ST_UNSUPPORTED,
                     "%.200s: chat_template is %s; expected one text, or say --template qwen3", f->label,
                     jnode_kind(x));
    jdoc_free(&d);
    return st;
}

int template_detect(const char *dir, int *out, struct err *e)
{
    struct model__file f;
    *out = CHAT_TEMPLATE_NONE;
    int st = model__file_open(&f, dir, "chat_template.jinja", e);
    if (st == 0) {
        st = by_text(f.data, f.bytes, f.label, out, e);
        model__file_close(&f);
        return st;
    }
    if (st == ST_NOTFOUND)
        st = model__file_open(&f, dir, "tokenizer_config.json", e);
    if (st < 0)
        return st == ST_NOTFOUND ? 0 : st;
    st = by_config(&f, out, e);
    model__file_close(&f);
    return st;
}

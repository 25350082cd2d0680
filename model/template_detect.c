/* template_detect.c - which chat template a checkpoint brings, known by a hash of its exact text.
 *
 * Order as in transformers (a GGUF has one place for it): chat_template.jinja, then chat_template in tokenizer_config.json.  A template that only looks
 * like Qwen3's is refused: a changed comma would change what the model reads. */
#include <string.h>

#include "model/jdoc.h"
#include "model/read.h"
#include "model/source.h"
#include "model/synth.h"
#include "model/template.h"

static const struct {
    uint64_t hash; /* FNV-1a of the text */
    int which;
} known[] = {
    {UINT64_C(0x959a4551391a6549), CHAT_TEMPLATE_QWEN3},         /* Qwen/Qwen3-0.6B, revision c1899de2 */
    {UINT64_C(0xcd0d41a64dfce181), CHAT_TEMPLATE_THINKING_2507}, /* Qwen/Qwen3-4B-Thinking-2507 */
    {UINT64_C(0xd7832b70ace96142), CHAT_TEMPLATE_QWEN3}, /* SYNTH_TEMPLATE: what `outrider synth` writes */
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
    return err_set(
        e, ST_UNSUPPORTED,
        "%.200s: this chat template (hash %016llx) is not one this build knows; say which one it prints "
        "like: --template qwen3, thinking-2507 or instruct-2507",
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
                     "%.200s: chat_template is %s; expected one text, or say --template qwen3, thinking-2507 "
                     "or instruct-2507",
                     f->label, jnode_kind(x));
    jdoc_free(&d);
    return st;
}

static int by_dir(const char *dir, int *out, struct err *e)
{
    struct model__file f;
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

static int by_gguf(const char *path, int *out, struct err *e)
{
    struct gguf *g;
    size_t n;
    int st = gguf_open(&g, path, e);
    const struct gguf_value *v = st ? NULL : gguf_get(g, "tokenizer.chat_template");
    const char *s = v ? gguf_string(v, &n) : NULL;
    if (v && !s)
        st = err_set(e, ST_FORMAT, "%.200s: tokenizer.chat_template is no string", gguf_label(g));
    else if (s)
        st = by_text(s, n, gguf_label(g), out, e);
    gguf_close(g);
    return st;
}

int template_detect(const char *name, int *out, struct err *e)
{
    struct source s;
    struct synth_shape shape;
    *out = CHAT_TEMPLATE_NONE;
    int st = source_find(&s, name, e);
    if (st < 0)
        return st;
    if (s.kind != SOURCE_SYNTH)
        return s.kind == SOURCE_GGUF ? by_gguf(s.path, out, e) : by_dir(s.path, out, e);
    if ((st = synth_parse(&shape, s.path, e)) == 0)
        *out = CHAT_TEMPLATE_QWEN3;
    return st;
}

/* synth_text.c - see synth_text.h.  Real tokens have four bytes on average, these have two to four: a text has about the number of
 * tokens that a user of a real model would see. */
#include "model/synth_text.h"

#include <stdlib.h>
#include <string.h>

#include "model/synth.h"
#include "model/tokenizer_impl.h"

enum {
    PAIRS = 27 * 26, /* a space or a letter, and a letter */
    LETTER_PAIRS = 26 * 26,
    TRIPLES = PAIRS * 26,
    QUADS = PAIRS * LETTER_PAIRS, /* more than are needed: */
    QUAD_STEP = 181,              /* a prime that QUADS does not hold spreads the chosen ones over all */
};

const struct synth__added synth__added[SYNTH_ADDED] = {
    {"<|endoftext|>", 1},
    {"<|im_start|>", 1},
    {"<|im_end|>", 1},
    {"<|object_ref_start|>", 1},
    {"<|object_ref_end|>", 1},
    {"<|box_start|>", 1},
    {"<|box_end|>", 1},
    {"<|quad_start|>", 1},
    {"<|quad_end|>", 1},
    {"<|vision_start|>", 1},
    {"<|vision_end|>", 1},
    {"<|vision_pad|>", 1},
    {"<|image_pad|>", 1},
    {"<|video_pad|>", 1},
    {"<tool_call>", 0},
    {"</tool_call>", 0},
    {"<|fim_prefix|>", 0},
    {"<|fim_middle|>", 0},
    {"<|fim_suffix|>", 0},
    {"<|fim_pad|>", 0},
    {"<|repo_name|>", 0},
    {"<|file_sep|>", 0},
    {"<tool_response>", 0},
    {"</tool_response>", 0},
    {"<think>", 0},
    {"</think>", 0},
};

/* Bytes in the order of the characters that stand for them: visible ones first. */
static unsigned char byte_at(int32_t id)
{
    int n = 0, hidden = 0;
    for (int b = 0; b < 256; b++) {
        int visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (visible ? n++ == id : 188 + hidden++ == id)
            return (unsigned char) b;
    }
    return 0;
}

static void pair(int k, char out[2])
{
    out[0] = k < 26 ? ' ' : (char) ('a' + k / 26 - 1);
    out[1] = (char) ('a' + k % 26);
}

int synth__token(int32_t id, char out[SYNTH_TOKEN_MAX])
{
    int32_t k = id - SYNTH_BYTES;
    if (k < 0) {
        out[0] = (char) byte_at(id);
        return 1;
    }
    if (k < PAIRS) {
        pair(k, out);
        return 2;
    }
    k -= PAIRS;
    if (k < TRIPLES) {
        pair(k / 26, out);
        out[2] = (char) ('a' + k % 26);
        return 3;
    }
    k = (int32_t) ((int64_t) (k - TRIPLES) * QUAD_STEP % QUADS);
    pair(k / LETTER_PAIRS, out);
    pair(26 + k % LETTER_PAIRS, out + 2);
    return 4;
}

int synth__left(int n)
{
    return n == 2 ? 1 : 2;
}

static int fill(struct tokenizer *t, struct err *e)
{
    char s[SYNTH_TOKEN_MAX];
    int st = 0;
    for (int32_t id = 0; !st && id < SYNTH_BASE; id++)
        st = tokenizer__token(t, id, s, (size_t) synth__token(id, s), e);
    if (!st)
        st = tokenizer__finish_tokens(t, e);
    for (int32_t id = SYNTH_BYTES; !st && id < SYNTH_BASE; id++) {
        int n = synth__token(id, s), left = synth__left(n);
        st = tokenizer__merge(t, s, (size_t) left, s + left, (size_t) (n - left), e);
    }
    for (int i = 0; !st && i < SYNTH_ADDED; i++)
        st = tokenizer__add(t, SYNTH_BASE + i, synth__added[i].text, strlen(synth__added[i].text),
                            synth__added[i].special, e);
    return st ? st : tokenizer__finish(t, e);
}

int synth_tokenizer(struct tokenizer **out, struct err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return err_set(e, ST_NOMEM, "out of memory");
    int st = fill(*out, e);
    if (st) {
        tokenizer_close(*out);
        *out = NULL;
    }
    return st;
}

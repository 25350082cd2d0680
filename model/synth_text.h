/* synth_text.h - the made-up vocabulary of synthetic models, id by id: what the tokenizer and the writer of files share.
 *
 * Ids 0 to 255 are the bytes, in Qwen's order; then come 702 pairs (a space or a letter, and a letter), 18,252 of three (a pair and
 * a letter) and 132,433 of four (two pairs), each made by the merge of the same rank; then Qwen's 26 added tokens.  Internal to
 * the folder. */
#ifndef MODEL_SYNTH_TEXT_H
#define MODEL_SYNTH_TEXT_H

#include <stdint.h>

enum { SYNTH_BYTES = 256, SYNTH_BASE = 151643, SYNTH_ADDED = 26, SYNTH_ROWS = 151936, SYNTH_TOKEN_MAX = 4 };

/* The bytes of token id (below SYNTH_BASE); how many. */
int synth__token(int32_t id, char out[SYNTH_TOKEN_MAX]);

/* Bytes of the left half of a token of n >= 2 bytes. */
int synth__left(int n);

struct synth__added {
    const char *text;
    int special;
};
extern const struct synth__added synth__added[SYNTH_ADDED]; /* from id SYNTH_BASE on */

#endif

/* tokenizer.h - text to token ids and back, exactly as Hugging Face tokenizers does for Qwen3.
 *
 * Pipeline (tokenizer.json): added tokens are split off -> NFC (utf8proc) -> Qwen's pattern (PCRE2, JIT) ->
 * byte-level BPE, lowest rank first.  Read from tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json.
 * A tokenizer is immutable after open; any thread may encode with its own scratch. */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct tokenizer;

/* A growing list of ids; zero-initialise, free(id) when done. */
struct tokens {
    int32_t *id; /* owns; (n) */
    size_t n, cap;
};

enum tokenizer_flags {
    TOKENIZER_ADDED = 1, /* recognise added tokens, as Hugging Face does; else they are plain text */
};

/* A piece of rendered text: the template's own words may hold added tokens, a user's may not. */
struct piece {
    const char *text; /* UTF-8; borrowed */
    size_t bytes;
    int32_t added; /* 1: recognise added tokens here */
};

/* `name` as in config_load.  Reads DIR/tokenizer.json, or where that is missing vocab.json, merges.txt and (for added tokens) tokenizer_config.json;
 * of a GGUF its tokenizer.ggml.* metadata; synth:... has one of its own.
 * ST_NOTFOUND, ST_IO; ST_FORMAT: malformed, e names file, token and what was expected; ST_UNSUPPORTED: a setting this build
 * does not serve (another normalizer, pattern, model..., added tokens with lstrip), named in e; ST_NOMEM.  *out is NULL then. */
int tokenizer_open(struct tokenizer **out, const char *name, struct err *e);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

/* Appends the ids of text to out.  ST_INPUT: invalid UTF-8, e gives the byte offset; ST_LIMIT: over 64 MiB, or PCRE2
 * gave up; ST_NOMEM.  out keeps what it had. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, int flags, struct tokens *out,
                     struct err *e);

/* The same for a text given in pieces: it is tokenized WHOLE (normalisation, pattern and BPE run across piece borders
 * where no added token stands between), but added tokens are recognised only where a piece allows it and lie wholly
 * inside one piece or a run of such pieces. */
int tokenizer_encode_pieces(const struct tokenizer *t, const struct piece *p, size_t n, struct tokens *out,
                            struct err *e);

int32_t
tokenizer_count(const struct tokenizer *t); /* the largest id, added ones included, + 1: 151669 for Qwen3 */

/* Id of an added token by its content, or -1. */
int32_t tokenizer_added(const struct tokenizer *t, const char *content);

/* 1: the token is an added one that decoding with skip_special_tokens leaves out. */
int tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* The raw bytes of one token (an added token's content); NULL and *bytes = 0 for an id out of range or a hole.
 * Borrows until close. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *bytes);

/* A hash of vocabulary, merges and added tokens: equal for tokenizers that give equal ids. */
uint64_t tokenizer_hash(const struct tokenizer *t);

/* One sentence on the first difference between two tokenizers (sizes, an id, an added token) into e; 0 if none, else
 * ST_PRECONDITION. */
int tokenizer_compare(const struct tokenizer *a, const struct tokenizer *b, struct err *e);

/* --- bytes of tokens to text that is always whole UTF-8 --- */

/* Holds back the bytes of an unfinished character between tokens.  Zero-initialise. */
struct utf8_hold {
    unsigned char held[4];
    int32_t n; /* bytes held, 0..3 */
};

/* Appends bytes; writes to out (cap >= 3 * (bytes + 3) + 3) all text that is whole by now, each maximal ill-formed subpart
 * replaced by U+FFFD (Unicode 15 section 3.9, as Python's and Rust's lossy decoders do).  `last` flushes what is held
 * as U+FFFD.  Returns the number of bytes written. */
size_t utf8_hold_push(struct utf8_hold *h, const char *p, size_t bytes, int last, char *out);

#endif

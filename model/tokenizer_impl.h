/* tokenizer_impl.h - what the tokenizer's files share: its tables, and the stages of encoding.
 *
 *   tokenizer_load.c   files -> tables; tokenizer_gguf.c, synth_text.c: the same from a GGUF's metadata, from nothing
 *   tokenizer.c        the tables, the accessors, decoding
 *   encode.c           text -> added tokens, segments -> words -> ids
 *   nfc.c              one segment, normalised
 *   bpe.c              one word -> ids
 *
 * The tables never change after tokenizer_open; everything that does change while a text is encoded lives in struct
 * encoder, on the caller's stack. */
#ifndef MODEL_TOKENIZER_IMPL_H
#define MODEL_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/gguf.h"
#include "model/jdoc.h"
#include "model/tokenizer.h"

enum {
    TOKENIZER_IDS_MAX = 1 << 20,         /* ids; Qwen3.5 has 248,000 */
    TOKENIZER_TOKEN_BYTES_MAX = 1 << 12, /* bytes of one token; Qwen3's longest has 128 */
    TOKENIZER_ADDED_MAX = 1 << 16,       /* added tokens; bounds the trie */
    TOKENIZER_TEXT_MAX =
        64 << 20, /* bytes of one text: more than any context holds; a word's merging takes up to 44
                                           times its size */
};

/* Qwen's pattern as tokenizer.json spells it: the only one served. */
extern const char tokenizer__pattern[];

enum tok_flags {
    TOK_ADDED = 1,
    TOK_SPECIAL = 2,
    TOK_WHOLE =
        4, /* merging this token's bytes gives this token alone: a word equal to it needs no merging */
};

struct tok {
    uint32_t at;    /* its bytes: blob + at */
    uint16_t bytes; /* 0: a hole */
    uint8_t flags;  /* enum tok_flags */
};

struct merge {
    int32_t left, right, to; /* ids */
};

/* Open addressing, linear probing: (left, right) -> rank.  to is repeated here to save a second miss. */
struct merge_slot {
    int32_t left, right;
    int32_t rank; /* -1: empty */
    int32_t to;
};

/* Trie over the bytes of added tokens: first child, next sibling.  Node 0 is the root; 0 elsewhere means none. */
struct trie_node {
    int32_t child, sibling;
    int32_t id; /* added token that ends here, -1: none */
    uint8_t byte;
};

struct tokenizer {
    struct tok *tok; /* owns; (n_ids) */
    int32_t n_ids, tok_cap;
    char *blob; /* owns; (blob_bytes) every token's bytes */
    size_t blob_bytes, blob_cap;

    int32_t *word; /* owns; (word_mask + 1) bytes of a base token -> id, open addressing; -1: empty */
    uint32_t word_mask;
    int32_t byte_id[256];

    struct merge *merge; /* owns; (n_merges) by rank */
    int32_t n_merges, merge_cap;
    struct merge_slot *slot; /* owns; (slot_mask + 1) */
    uint32_t slot_mask;

    struct trie_node *trie; /* owns; (n_trie) */
    int32_t n_trie, trie_cap, n_added;
    uint8_t starts[256]; /* 1: an added token begins with this byte */

    pcre2_code *split;           /* owns; compiled pattern */
    pcre2_match_context *limits; /* owns; of its matching */
    uint64_t hash;
};

/* What changes while one text is encoded.  Zero-initialised by encode.c, which frees it. */
struct encoder {
    const struct tokenizer *t;
    struct tokens *out;
    struct err *e;
    pcre2_match_data *match; /* owns */
    struct jout nfc;         /* owns; one segment, normalised */
    void *scratch;           /* owns; merging of a long word */
    size_t scratch_bytes;
};

/* A token in a sentence: printable ASCII as it is, the rest as \xNN, cut when long. */
enum { TOKENIZER_SHOW_BYTES = 60 };
struct shown {
    char s[TOKENIZER_SHOW_BYTES * 4 + 4];
};
struct shown tokenizer__show(const char *p, size_t n);

/* The texts of a tokenizer's files; label names them in sentences. */
struct vocab_text {
    const char *label, *p;
    size_t n;
};

/* tokenizer_open on memory.  config may be empty (p == NULL): no added tokens then. */
int tokenizer__open_json(struct tokenizer **out, struct vocab_text json, struct err *e);
int tokenizer__open_vocab(struct tokenizer **out, struct vocab_text vocab, struct vocab_text merges,
                          struct vocab_text config, struct err *e);

int tokenizer__open_gguf(struct tokenizer **out, const struct gguf *g, struct err *e);

/* GPT-2's table the other way round: code point -> the byte it stands for, -1: none. */
enum { TOKENIZER_ALPHABET = 256 + 68 };
void tokenizer__alphabet(int16_t byte_of[TOKENIZER_ALPHABET]);

/* A token's characters (UTF-8) to its bytes, which out holds TOKENIZER_TOKEN_BYTES_MAX of: how many; -1: a character that stands
 * for no byte, or too long. */
int tokenizer__to_bytes(const int16_t byte_of[TOKENIZER_ALPHABET], const char *p, size_t n, char *out);

/* A table being filled; the order of calls is: token (all), finish_tokens, merge (all, by rank), added (all), finish. */
int tokenizer__token(struct tokenizer *t, int64_t id, const char *bytes, size_t n, struct err *e);
int tokenizer__finish_tokens(struct tokenizer *t, struct err *e);
int tokenizer__merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
                     struct err *e);
int tokenizer__add(struct tokenizer *t, int64_t id, const char *bytes, size_t n, int special, struct err *e);
int tokenizer__finish(struct tokenizer *t, struct err *e);

/* Id of the base token with these bytes, or -1. */
int32_t tokenizer__find(const struct tokenizer *t, const char *p, size_t n);

/* The longest added token that starts at p, or -1; *len is its length. */
int32_t tokenizer__match_added(const struct tokenizer *t, const char *p, size_t n, size_t *len);

/* Appends the ids of one word (n >= 1).  ST_NOMEM. */
int tokenizer__word(struct encoder *c, const char *p, size_t n);

/* Puts a merge into the slots; 0: the pair is there already. */
int tokenizer__slot(struct tokenizer *t, int32_t left, int32_t right, int32_t rank, int32_t to);

int tokenizer__compile(struct tokenizer *t, struct err *e); /* the pattern */

/* Merges a word's bytes into ids, without the table of whole words; `id` takes up to n.  *count: how many. */
int tokenizer__merge_bytes(const struct tokenizer *t, void **scratch, size_t *scratch_bytes, const char *p,
                           size_t n, int32_t *id, size_t *count);

/* Normalises p to NFC.  *out points at p itself when that is NFC already, else into c->nfc.  ST_NOMEM. */
int tokenizer__nfc(struct encoder *c, const char *p, size_t n, const char **out, size_t *out_n);

int tokenizer__reserve(struct tokens *out, size_t more); /* room for `more` ids; ST_NOMEM */

#endif

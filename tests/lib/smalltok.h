/* smalltok.h - a small byte-level tokenizer in Qwen's form, made up in memory: 256 bytes, some thirty merges, five added
 * tokens.  For tests and fuzz targets that must run without ../shared. */
#ifndef TESTS_LIB_SMALLTOK_H
#define TESTS_LIB_SMALLTOK_H

#include "model/jdoc.h"
#include "model/tokenizer_impl.h"

enum smalltok_added {
    SMALLTOK_END,
    SMALLTOK_START,
    SMALLTOK_STOP,
    SMALLTOK_THINK,
    SMALLTOK_THINKING,
    SMALLTOK_N_ADDED
};

extern const char *const smalltok_added[SMALLTOK_N_ADDED]; /* contents; the first three are special */

/* tokenizer.json; merges as pairs or as "a b". */
void smalltok_json(struct jout *o, int pairs);
void smalltok_vocab(struct jout *o);  /* vocab.json */
void smalltok_merges(struct jout *o); /* merges.txt */
void smalltok_config(struct jout *o); /* tokenizer_config.json */

struct tokenizer *smalltok_open(void); /* aborts where that fails */

int32_t smalltok_added_id(int i); /* id of the i-th added token */

#endif

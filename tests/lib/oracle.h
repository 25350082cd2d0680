/* oracle.h - a Qwen3 forward pass in double, with the textbook's formulas and libm: what bounds the twin's own error. */
#ifndef TESTS_LIB_ORACLE_H
#define TESTS_LIB_ORACLE_H

#include "model/model.h"

/* logits: (n, vocab), of every position of ids.  Weights as stored.  round_kv 1: keys and values are rounded to BF16 before they are
 * read.  Aborts when memory is out. */
void oracle_logits(const struct model *m, const int32_t *ids, int n, int round_kv, double *logits);

#endif

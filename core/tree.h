/* tree.h - what the draft guesses, the target scores and the verifier walks.
 *
 * Node 0 is the root: the newest token of the text, settled but not yet in the KV; scoring the tree is what
 * puts it there.  Every other node is a guess at the token after its parent.  Parents stand before their
 * children, so one pass over the arrays always meets a parent first and nothing here ever recurses.
 *
 * Two special cases are not special: a chain is a tree where parent[i] == i - 1, and plain decoding is a tree
 * with n == 1.  Both go through the same code, so a fault in the tree path cannot hide behind a simpler one.
 *
 * Plain arrays, because a target ships tok, parent and depth to its device exactly as they lie here.  Copy a
 * tree with =, keep it on the stack, own it by holding it. */
#ifndef CORE_TREE_H
#define CORE_TREE_H

#include <stdint.h>

enum { TREE_MAX = 64 }; /* nodes; NUMERICS.md's tail rule for the GPU counts on it */

enum tree_source { TREE_ROOT, TREE_MODEL, TREE_LOOKUP, TREE_ORACLE };

struct tree {
    int32_t n;                /* nodes in use, 1..TREE_MAX */
    int32_t tok[TREE_MAX];    /* token id */
    int16_t parent[TREE_MAX]; /* smaller than own index; -1 at the root */
    int16_t depth[TREE_MAX];  /* 0 at the root; position = root's position + depth */
    float conf[TREE_MAX];     /* proposer's estimate of P(kept | parent kept), 0..1; 1 at the root */
    uint8_t source[TREE_MAX]; /* enum tree_source */
    int32_t ref[TREE_MAX];    /* the proposer's own handle, -1: none; survives tree_trim */
};

/* A path that is still on its way: it lies where its row's logits view says (logits.h). */
enum { PATH_PENDING = 1 };

/* A walk from the root: the guesses kept, then one token of the target's own. */
struct path {
    int32_t n;              /* guesses kept, 0..TREE_MAX - 1 */
    int16_t node[TREE_MAX]; /* their indices, top down */
    int32_t next;           /* the token after them; root of the next tree */
    int32_t status;         /* 0, or why this walk ended its request (ST_NONFINITE), or PATH_PENDING */
};

/* Makes t a tree of its root alone. */
void tree_init(struct tree *t, int32_t root_tok);

/* Adds a guess below parent (0 <= parent < n).  Returns its index, or ST_LIMIT when the tree is full. */
int tree_add(struct tree *t, int parent, int32_t tok, float conf, int source, int32_t ref);

/* Index of parent's child that holds tok, or -1. */
int tree_child(const struct tree *t, int parent, int32_t tok);

/* Keeps the root and the `budget` - 1 other nodes likeliest to survive (product of conf from the root; ties
 * by the lower index) and closes the gaps.  Parents still stand first.  The scheduler's only lever. */
void tree_trim(struct tree *t, int budget);

/* 0 if every rule above holds, siblings differ and every id is in [0, vocab); else ST_INPUT. */
int tree_check(const struct tree *t, int32_t vocab);

#endif

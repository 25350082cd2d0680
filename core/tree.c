/* tree.c - the rules of core/tree.h. */
#include "core/tree.h"
#include "core/status.h"

void tree_init(struct tree *t, int32_t root_tok)
{
    t->n = 1;
    t->tok[0] = root_tok;
    t->parent[0] = -1;
    t->depth[0] = 0;
    t->conf[0] = 1;
    t->source[0] = TREE_ROOT;
    t->ref[0] = -1;
}

int tree_add(struct tree *t, int parent, int32_t tok, float conf, int source, int32_t ref)
{
    if (t->n >= TREE_MAX)
        return ST_LIMIT;
    int i = t->n++;
    t->tok[i] = tok;
    t->parent[i] = (int16_t) parent;
    t->depth[i] = (int16_t) (t->depth[parent] + 1);
    t->conf[i] = conf;
    t->source[i] = (uint8_t) source;
    t->ref[i] = ref;
    return i;
}

int tree_child(const struct tree *t, int parent, int32_t tok)
{
    for (int i = parent + 1; i < t->n; i++)
        if (t->parent[i] == parent && t->tok[i] == tok)
            return i;
    return -1;
}

static void tree_move(struct tree *t, int to, int from, int parent)
{
    t->tok[to] = t->tok[from];
    t->parent[to] = (int16_t) parent;
    t->depth[to] = t->depth[from];
    t->conf[to] = t->conf[from];
    t->source[to] = t->source[from];
    t->ref[to] = t->ref[from];
}

void tree_trim(struct tree *t, int budget)
{
    float alive[TREE_MAX]; /* product of conf from the root */
    int kept[TREE_MAX] = {1};
    int to[TREE_MAX] = {0};
    alive[0] = 1;
    for (int i = 1; i < t->n; i++)
        alive[i] = alive[t->parent[i]] * t->conf[i];
    for (int left = budget - 1; left > 0; left--) {
        int best = -1;
        for (int i = 1; i < t->n; i++)
            if (!kept[i] && kept[t->parent[i]] && (best < 0 || alive[i] > alive[best]))
                best = i;
        if (best < 0)
            break;
        kept[best] = 1;
    }
    int n = 1;
    for (int i = 1; i < t->n; i++)
        if (kept[i]) {
            to[i] = n;
            tree_move(t, n, i, to[t->parent[i]]);
            n++;
        }
    t->n = n;
}

int tree_check(const struct tree *t, int32_t vocab)
{
    if (t->n < 1 || t->n > TREE_MAX || t->parent[0] != -1 || t->depth[0] != 0)
        return ST_INPUT;
    for (int i = 0; i < t->n; i++) {
        if (t->tok[i] < 0 || t->tok[i] >= vocab)
            return ST_INPUT;
        if (i == 0)
            continue;
        int p = t->parent[i];
        if (p < 0 || p >= i || t->depth[i] != t->depth[p] + 1 || !(t->conf[i] >= 0 && t->conf[i] <= 1))
            return ST_INPUT;
        if (tree_child(t, p, t->tok[i]) != i) /* the first child with this token must be itself */
            return ST_INPUT;
    }
    return 0;
}

/* parts.h - the architecture as a list: every tensor of a Qwen3, in the spelling of Hugging Face and of GGUF.
 *
 * What opens a checkpoint (model.c) and what makes one up (synth.c) read the same list.  Internal to the folder. */
#ifndef MODEL_PARTS_H
#define MODEL_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "model/config.h"

enum part_role {
    PART_NORM,
    PART_TABLE, /* embedding or output layer */
    PART_LINEAR,
    PART_ROUTER
};

struct part {
    size_t at; /* offset of its pointer in struct model, layer_tensors or expert_tensors */
    int role;  /* enum part_role */
    const char *hf, *gguf;
    int64_t rows, cols; /* cols 0: a vector of `rows` */
};

enum { PARTS_MODEL_MAX = 3, PARTS_LAYER_MAX = 11, PARTS_EXPERT = 3, PARTS_NAME_MAX = 96 };

/* Each fills p and returns how many.  A layer's are those beside its experts: the router, or the dense feed-forward. */
int parts_of_model(const struct config *c, struct part p[PARTS_MODEL_MAX]);
int parts_of_layer(const struct config *c, int layer, struct part p[PARTS_LAYER_MAX]);
int parts_of_expert(const struct config *c, struct part p[PARTS_EXPERT]);

int parts_has_experts(const struct config *c, int layer); /* 1: layer is a mixture of experts */

/* The tensor's name; layer -1: the model's own; expert -1: none, or in GGUF all of them stacked. */
struct part_name {
    char s[PARTS_NAME_MAX];
};
struct part_name part_name_hf(const struct part *p, int layer, int expert);
struct part_name part_name_gguf(const struct part *p, int layer);

#endif

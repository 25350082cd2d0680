/* parts.c - see parts.h.  Source: transformers' modeling_qwen3 and modeling_qwen3_moe; gguf-py's constants.py. */
#include "model/parts.h"

#include <stdio.h>
#include <string.h>

#include "model/model.h"

#define AT(where, field) offsetof(struct where, field)

int parts_of_model(const struct config *c, struct part p[PARTS_MODEL_MAX])
{
    p[0] =
        (struct part){AT(model, embed), PART_TABLE, "model.embed_tokens", "token_embd", c->vocab, c->hidden};
    p[1] = (struct part){AT(model, norm), PART_NORM, "model.norm", "output_norm", c->hidden, 0};
    p[2] = (struct part){AT(model, head), PART_TABLE, "lm_head", "output", c->vocab, c->hidden};
    return c->tied ? 2 : 3;
}

int parts_has_experts(const struct config *c, int layer)
{
    return c->moe.n_experts && c->moe.layer[layer];
}

int parts_of_layer(const struct config *c, int layer, struct part p[PARTS_LAYER_MAX])
{
    int64_t h = c->hidden, q = (int64_t) c->n_heads * c->head_dim, kv = (int64_t) c->n_kv_heads * c->head_dim;
    const struct part list[] = {
        {AT(layer_tensors, attn_norm), PART_NORM, "input_layernorm", "attn_norm", h, 0},
        {AT(layer_tensors, q), PART_LINEAR, "self_attn.q_proj", "attn_q", q, h},
        {AT(layer_tensors, k), PART_LINEAR, "self_attn.k_proj", "attn_k", kv, h},
        {AT(layer_tensors, v), PART_LINEAR, "self_attn.v_proj", "attn_v", kv, h},
        {AT(layer_tensors, q_norm), PART_NORM, "self_attn.q_norm", "attn_q_norm", c->head_dim, 0},
        {AT(layer_tensors, k_norm), PART_NORM, "self_attn.k_norm", "attn_k_norm", c->head_dim, 0},
        {AT(layer_tensors, o), PART_LINEAR, "self_attn.o_proj", "attn_output", h, q},
        {AT(layer_tensors, ffn_norm), PART_NORM, "post_attention_layernorm", "ffn_norm", h, 0},
    };
    const struct part router = {
        AT(layer_tensors, router), PART_ROUTER, "mlp.gate", "ffn_gate_inp", c->moe.n_experts, h};
    const struct part dense[] = {
        {AT(layer_tensors, gate), PART_LINEAR, "mlp.gate_proj", "ffn_gate", c->ffn, h},
        {AT(layer_tensors, up), PART_LINEAR, "mlp.up_proj", "ffn_up", c->ffn, h},
        {AT(layer_tensors, down), PART_LINEAR, "mlp.down_proj", "ffn_down", h, c->ffn},
    };
    enum { BOTH = sizeof list / sizeof *list };
    memcpy(p, list, sizeof list);
    if (parts_has_experts(c, layer)) {
        p[BOTH] = router;
        return BOTH + 1;
    }
    memcpy(p + BOTH, dense, sizeof dense);
    return PARTS_LAYER_MAX;
}

int parts_of_expert(const struct config *c, struct part p[PARTS_EXPERT])
{
    p[0] = (struct part){AT(expert_tensors, gate), PART_LINEAR, "gate_proj",
                         "ffn_gate_exps",          c->moe.ffn,  c->hidden};
    p[1] =
        (struct part){AT(expert_tensors, up), PART_LINEAR, "up_proj", "ffn_up_exps", c->moe.ffn, c->hidden};
    p[2] = (struct part){AT(expert_tensors, down), PART_LINEAR, "down_proj",
                         "ffn_down_exps",          c->hidden,   c->moe.ffn};
    return PARTS_EXPERT;
}

struct part_name part_name_hf(const struct part *p, int layer, int expert)
{
    struct part_name n;
    if (layer < 0)
        snprintf(n.s, sizeof n.s, "%s.weight", p->hf);
    else if (expert < 0)
        snprintf(n.s, sizeof n.s, "model.layers.%d.%s.weight", layer, p->hf);
    else
        snprintf(n.s, sizeof n.s, "model.layers.%d.mlp.experts.%d.%s.weight", layer, expert, p->hf);
    return n;
}

struct part_name part_name_gguf(const struct part *p, int layer)
{
    struct part_name n;
    if (layer < 0)
        snprintf(n.s, sizeof n.s, "%s.weight", p->gguf);
    else
        snprintf(n.s, sizeof n.s, "blk.%d.%s.weight", layer, p->gguf);
    return n;
}

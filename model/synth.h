/* synth.h - a model of a real Qwen3's shape with random weights: for latency work without a download.
 *
 * Name: synth:SHAPE[:layers=N][:dtype=bf16|q8|fp8][:seed=S], SHAPE one of 0.6b, 1.7b, 4b, 8b, 14b, 32b, 30b-a3b, 235b-a22b.
 * bf16 and fp8 look like a Hugging Face directory, q8 like a GGUF (Q8_0); `outrider synth` writes them as such, and the written
 * checkpoint opens to the same weights_hash.
 *
 * Weights: uniform with Qwen's standard deviation of 0.02 (FP8: the same on average), norms near 1, so that logits stay finite and
 * of the size of a real model's.  They come from a counter-based generator (SplitMix64's mixer; Steele, Lea, Flood 2014), so that a
 * seed names the same bytes everywhere.  Memory is one region of random bytes a kind of weight, as large as the largest tensor of
 * that kind (0.3 GB for 0.6b, 1.6 GB for 32b); every tensor is a window of its region at an offset of its own.  Layers thus share
 * bytes, which no kernel can tell.
 *
 * Text: a byte-level vocabulary of Qwen3's size, its added tokens at Qwen's ids, made-up merges of up to four letters; the
 * chat template is Qwen3's.  Answers are noise. */
#ifndef MODEL_SYNTH_H
#define MODEL_SYNTH_H

#include <stdint.h>

#include "core/status.h"
#include "model/config.h"
#include "model/tensor.h"
#include "model/tokenizer.h"

enum synth_dtype { SYNTH_BF16, SYNTH_Q8, SYNTH_FP8 };

struct synth_shape {
    int which; /* index of the shape's name */
    int32_t n_layers;
    int dtype; /* enum synth_dtype */
    uint64_t seed;
};

struct synth;

/* words: the name without "synth:".  ST_INPUT: e lists what is known. */
int synth_parse(struct synth_shape *s, const char *words, struct err *e);

/* What config.json and generation_config.json of that shape say. */
void synth_config(const struct synth_shape *s, struct config *c, struct gen_config *g);

/* Fills the regions: some seconds for the large ones.  ST_NOMEM. */
int synth_open(struct synth **out, const struct synth_shape *s, struct err *e);
void synth_close(struct synth *s);        /* NULL is fine */
int synth_is_gguf(const struct synth *s); /* 1: names and stacks are GGUF's */
int synth_count(const struct synth *s);
const struct tensor *synth_tensors(const struct synth *s); /* (synth_count), sorted by name; owned by s */

/* The chat template of a written model: a text of our own that template_detect knows and transformers renders as nothing. */
#define SYNTH_TEMPLATE "{#- a synthetic model of outrider: rendered as qwen3 -#}"

/* The tokenizer of every synthetic model. */
int synth_tokenizer(struct tokenizer **out, struct err *e);

/* Writes the model as a checkpoint into dir, which is made where it is missing and must hold no other one: model.safetensors,
 * config.json, generation_config.json, tokenizer.json, tokenizer_config.json, or for q8 model.gguf alone.  ST_IO, ST_PRECONDITION:
 * dir holds something; ST_NOMEM. */
int synth_write(const struct synth_shape *s, const char *dir, struct err *e);

#endif

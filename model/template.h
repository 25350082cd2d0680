/* template.h - the chat templates of Qwen3, rendered in C, byte for byte what transformers' Jinja renderer gives.
 *
 * Source: chat_template.jinja of Qwen/Qwen3-0.6B and of Qwen/Qwen3-4B-Thinking-2507; Instruct-2507's by its rules.  The checkpoint's
 * own template text decides which renderer serves (by hash; of Instruct-2507 no text is known by hash); an unknown text is
 * refused with the way out (`--template NAME`).
 *
 * The output is a list of pieces, so that added tokens are recognised only where the template wrote them: a user cannot type
 * <|im_end|> into another role. */
#ifndef MODEL_TEMPLATE_H
#define MODEL_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/status.h"
#include "model/tokenizer.h"

enum chat_template {
    CHAT_TEMPLATE_NONE,
    CHAT_TEMPLATE_QWEN3,
    CHAT_TEMPLATE_THINKING_2507, /* the same, but every answer starts inside <think> */
    CHAT_TEMPLATE_INSTRUCT_2507  /* knows no thinking: earlier answers stay as they are */
};

/* What a template makes of enable_thinking. */
enum template_thinking { TEMPLATE_THINKS_NEVER, TEMPLATE_THINKS_AS_ASKED, TEMPLATE_THINKS_ALWAYS };

struct chat_call {
    const char *name;      /* printed as it is, like the template does */
    const char *arguments; /* printed raw when arguments_is_string, else JSON text for tojson */
    int32_t arguments_is_string;
};

struct chat_message {
    const char *role;      /* "system", "user", "assistant", "tool" */
    const char *content;   /* NULL: absent or null */
    const char *reasoning; /* reasoning_content; NULL: absent */
    size_t n_calls;
    const struct chat_call *call;
};

struct chat {
    size_t n_messages;
    const struct chat_message *message;
    size_t n_tools;
    const char *const *tool;       /* each a JSON object's text, for tojson */
    int32_t enable_thinking;       /* -1: not given (the template's default: thinking), 0, 1 */
    int32_t add_generation_prompt; /* 0, 1 */
    int32_t continue_final;        /* 1: the last message (assistant) is left open, without <|im_end|> */
};

struct pieces {
    struct piece *p; /* arena's */
    size_t n, cap;
};

/* Which template the checkpoint brings (chat_template.jinja, or chat_template in tokenizer_config.json; tokenizer.chat_template of
 * a GGUF; synth:... has Qwen3's).  `name` as in config_load.
 * *out is CHAT_TEMPLATE_NONE and the status 0 where it brings none.  ST_UNSUPPORTED for a text this build does not know; e
 * says so and names --template.  ST_IO, ST_FORMAT. */
int template_detect(const char *name, int *out, struct err *e);
int template_parse(const char *name); /* "qwen3", "thinking-2507", "instruct-2507" -> enum; -1: unknown */
int template_thinking(int which);     /* enum template_thinking */
const char *template_name(int which);

/* Renders c into pieces that live in a; their texts borrow from c and a.  ST_INPUT: bad role, bad JSON, a first system
 * message without content, no messages; ST_UNSUPPORTED: CHAT_TEMPLATE_NONE; ST_NOMEM. */
int template_render(int which, const struct chat *c, struct arena *a, struct pieces *out, struct err *e);

/* Reads a chat from the JSON object of the offline commands and of HTTP: keys messages, tools, enable_thinking,
 * add_generation_prompt, continue_final_message (Hugging Face's shapes); others are left alone.  Everything lives in a.
 * ST_INPUT: e names the place and what was expected; ST_NOMEM. */
int template_from_json(const char *json, size_t bytes, struct arena *a, struct chat *out, struct err *e);

#endif

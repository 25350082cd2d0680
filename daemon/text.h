/* text.h - output ids to text: what a stream's deltas say.  One object a choice of a session; loop thread.
 *
 * The text given so far is always a function of the ids given so far: a token's text goes out whole and together with
 * its id, or both wait.  They wait while a character is unfinished, while newlines may yet turn out to stand before
 * </think>, and while their text may yet turn out to be part of a stop string; what a tag settles goes out with the tag.
 * So a stream that breaks anywhere can be continued from the ids that arrived: text_skip walks over them silently, and what
 * follows joins without a seam.
 *
 * Chat: thinking is reasoning, the rest is content; <think>, </think> and special tokens have no text; newlines right
 * after <think>, right before </think> and right after it belong to neither.  Otherwise (Generate) all is content, tags
 * are text, and only special tokens have none.
 *
 * Stop strings are looked for in content, from tag to tag.  The token that completes one is the answer's last: the text goes
 * out up to the match, the ids up to that token, and what is pushed after it is not looked at.  So the answer is the same
 * however far the engine ran on. */
#ifndef DAEMON_TEXT_H
#define DAEMON_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "daemon/stop.h"
#include "draw/draw.h"
#include "model/tokenizer.h"

enum text_kind { TEXT_CONTENT, TEXT_REASONING };

/* Reasoning, then content: what a tag settles goes out in one piece with the tag. */
struct text_delta {
    size_t at[2], n[2]; /* bytes of text_out.text, by enum text_kind */
    size_t id_at, id_n; /* of text_out.ids */
};

/* What to send; reused from call to call.  Zero-initialise, text_out_free when done. */
struct text_out {
    struct buf text[2]; /* by enum text_kind: UTF-8; may hold NUL */
    struct buf ids;     /* int32_t */
    struct buf delta;   /* struct text_delta */
};

void text_out_clear(struct text_out *o); /* empty again, memory kept */
void text_out_free(struct text_out *o);
size_t text_out_count(const struct text_out *o);
struct text_delta text_out_at(const struct text_out *o, size_t i);

struct text {
    const struct tokenizer *tokenizer; /* borrows */
    int32_t open, close, tool;         /* ids of the tags; -1: none */
    int32_t chat;
    int32_t kind; /* enum text_kind: of the next text */
    int32_t skip; /* 1: a tag was just passed, newlines are dropped */
    struct utf8_hold hold;
    struct buf wait;           /* text that waits: all of one kind */
    struct buf wait_ids;       /* int32_t: ids that wait, with it or without text */
    const struct stops *stops; /* borrows; NULL: none */
    struct stop_state stop;
    int32_t stopped; /* which stop string has matched; -1: none */
    int32_t n_taken; /* tokens looked at, those before a resume too */
};

/* The prompt's last <think> or </think> decides how the text begins. */
void text_init(struct text *t, const struct tokenizer *tokenizer, const struct draw_think *think, int chat,
               const struct stops *stops, const int32_t *prompt, size_t n_prompt);
void text_fini(struct text *t);

/* All append to out and do nothing once t->stopped >= 0; 0 or ST_NOMEM. */
int text_push(struct text *t, const int32_t *tok, size_t n, struct text_out *out);
/* Tokens given before a resume: the state moves, nothing is to be sent (out is left empty). */
int text_skip(struct text *t, const int32_t *tok, size_t n, struct text_out *out);
/* The last ids.  whole: the text is complete, what waits goes out, an unfinished character as U+FFFD; else the stream is cut
 * short and text that waits stays unsaid, for a resume to say. */
int text_end(struct text *t, int whole, struct text_out *out);

#endif

/* bench_source.h - what `outrider bench` asks: request i, made of a dataset's line or of drawn token ids, the same whenever and
 * however often it is asked for. */
#ifndef CLIENT_BENCH_SOURCE_H
#define CLIENT_BENCH_SOURCE_H

#include "client/options.h"
#include "client/stream.h"

struct bench_line; /* one request of a dataset */

enum {
    BENCH_LINES_MAX = 1 << 20,      /* lines of a dataset; keeps a mistaken file from filling memory */
    BENCH_LINE_BYTES_MAX = 2 << 20, /* of a line; leaves room for the rest in a message of GRPC_MESSAGE_MAX */
    BENCH_SYNTHETIC_MAX = 1 << 20,  /* tokens of a synthetic prompt or answer, over every context there is */
};

/* Zero-initialise, then bench_source_load or the synthetic fields. */
struct bench_source {
    const struct options
        *o;           /* borrowed: sampling (options_point was called), stopping, thinking, deadline ... */
    uint64_t seed;    /* of synthetic ids; request i is sampled with seed + i */
    int raw;          /* 1: a dataset's prompts are continued as they are */
    int32_t n_prompt; /* tokens of a synthetic prompt; 0: a dataset */
    int32_t n_output; /* tokens of a synthetic answer */
    int32_t ids_end;  /* synthetic ids are drawn from [0, ids_end) */
    struct bench_line *line; /* owns; (n_lines) */
    size_t n_lines;
};

/* Reads a dataset: JSON lines {"prompt": TEXT} or {"messages": [{"role": TEXT, "content": TEXT}, ...]}, each with an optional
 * "max_tokens"; other members are left alone, empty lines passed over.  ST_INPUT: e names the file, the line and what is wrong
 * with it; ST_IO: it cannot be read; ST_NOMEM, ST_LIMIT. */
int bench_source_load(struct bench_source *s, const char *path, struct err *e);
void bench_source_fini(struct bench_source *s);

/* Starts request i on g; a dataset starts again behind its last line.  max_tokens > 0 takes the place of what the request and
 * the flags say.  As stream_chat. */
int bench_source_send(const struct bench_source *s, size_t i, const Outrider__V1__Speculation *speculation,
                      int32_t max_tokens, struct grpc *g, struct stream *a, struct err *e);

#endif

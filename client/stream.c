/* stream.c - see stream.h. */
#include "client/stream.h"

#include <stdlib.h>
#include <string.h>

static const Outrider__V1__Begin no_begin = OUTRIDER__V1__BEGIN__INIT;
static const Outrider__V1__End no_end = OUTRIDER__V1__END__INIT;
static const Outrider__V1__Usage no_usage = OUTRIDER__V1__USAGE__INIT;
static const Outrider__V1__Timings no_timings = OUTRIDER__V1__TIMINGS__INIT;
static const Outrider__V1__SpeculationFigures no_speculation = OUTRIDER__V1__SPECULATION_FIGURES__INIT;

static void start(struct stream *a, const Outrider__V1__Sampling *s)
{
    *a = (struct stream){.n = s && s->n__case && s->n > 0 && s->n <= STREAM_ANSWERS_MAX ? (size_t) s->n : 1};
    for (size_t i = 0; i < a->n; i++)
        a->answer[i].closed_at = -1;
}

int stream_chat(struct stream *a, struct grpc *g, const Outrider__V1__ChatRequest *r, int deadline_ms,
                struct err *e)
{
    start(a, r->sampling);
    return grpc_call_start(g, "/outrider.v1.Inference/Chat", &r->base, deadline_ms, &a->call, e);
}

int stream_chat_open(struct stream *a, struct grpc *g, const Outrider__V1__ChatRequest *r, int deadline_ms,
                     struct err *e)
{
    Outrider__V1__ChatControl first = OUTRIDER__V1__CHAT_CONTROL__INIT;
    first.control_case = OUTRIDER__V1__CHAT_CONTROL__CONTROL_REQUEST;
    first.request = (Outrider__V1__ChatRequest *) (uintptr_t) r; /* protobuf-c only reads it */
    start(a, r->sampling);
    return grpc_call_open(g, "/outrider.v1.Inference/ChatStream", &first.base, deadline_ms, &a->call, e);
}

int stream_stop_thinking(struct stream *a, struct err *e)
{
    Outrider__V1__StopThinking stop = OUTRIDER__V1__STOP_THINKING__INIT;
    Outrider__V1__ChatControl control = OUTRIDER__V1__CHAT_CONTROL__INIT;
    control.control_case = OUTRIDER__V1__CHAT_CONTROL__CONTROL_STOP_THINKING;
    control.stop_thinking = &stop;
    return grpc_call_send(a->call, &control.base, e);
}

int stream_generate(struct stream *a, struct grpc *g, const Outrider__V1__GenerateRequest *r, int deadline_ms,
                    struct err *e)
{
    start(a, r->sampling);
    return grpc_call_start(g, "/outrider.v1.Inference/Generate", &r->base, deadline_ms, &a->call, e);
}

static int add_ids(struct stream_answer *a, const int32_t *ids, size_t n)
{
    if (a->cap_ids - a->n_ids < n) {
        size_t cap = (a->n_ids + n) * 2;
        int32_t *p = realloc(a->ids, cap * sizeof *p);
        if (!p)
            return ST_NOMEM;
        a->ids = p;
        a->cap_ids = cap;
    }
    if (n)
        memcpy(a->ids + a->n_ids, ids, n * sizeof *ids);
    a->n_ids += n;
    return 0;
}

static int add_delta(struct stream_answer *a, const Outrider__V1__Delta *d, struct err *e)
{
    size_t n = strlen(d->content), m = strlen(d->reasoning);
    if (words_check(d->content, n) != n || words_check(d->reasoning, m) != m)
        return err_set(e, ST_WIRE, "the server sent text that is not UTF-8");
    if (words_add(&a->content, d->content, n) || words_add(&a->reasoning, d->reasoning, m) ||
        add_ids(a, d->token_ids, d->n_token_ids))
        return err_set(e, ST_NOMEM, "out of memory for the answer's text");
    if (d->closed_at__case)
        a->closed_at = d->closed_at;
    return 0;
}

static void drop(Outrider__V1__Event **ev)
{
    if (*ev)
        outrider__v1__event__free_unpacked(*ev, NULL);
    *ev = NULL;
}

static void keep(Outrider__V1__Event **where, Outrider__V1__Event *ev)
{
    drop(where);
    *where = ev;
}

/* The newest delta; it stays with its answer where it carries logprobs. */
static int keep_delta(struct stream *a, struct stream_answer *of, Outrider__V1__Event *ev)
{
    if (!a->delta_kept)
        drop(&a->delta);
    a->delta = ev;
    a->delta_kept = 0;
    if (!ev->delta->n_logprobs)
        return 0;
    Outrider__V1__Event **grown = realloc(of->kept, (of->n_kept + 1) * sizeof(*grown));
    if (!grown)
        return ST_NOMEM;
    of->kept = grown;
    of->kept[of->n_kept++] = ev;
    a->delta_kept = 1;
    return 0;
}

/* Whose event it is; NULL: nobody's, as the events stand. */
static struct stream_answer *answer_of(struct stream *a, const Outrider__V1__Event *ev)
{
    int end = ev->event_case == OUTRIDER__V1__EVENT__EVENT_END;
    if (!a->begin || (!end && ev->event_case != OUTRIDER__V1__EVENT__EVENT_DELTA))
        return NULL;
    int32_t choice = end ? ev->end->choice : ev->delta->choice;
    if (choice < 0 || (size_t) choice >= a->n || a->answer[choice].end)
        return NULL;
    return &a->answer[choice];
}

/* Takes ev into a.  ST_WIRE when it has no place in the order of events. */
static int take(struct stream *a, Outrider__V1__Event *ev, struct err *e)
{
    if (ev->event_case == OUTRIDER__V1__EVENT__EVENT_BEGIN && !a->begin) {
        a->begin = ev;
        return 0;
    }
    struct stream_answer *of = answer_of(a, ev);
    if (!of) {
        outrider__v1__event__free_unpacked(ev, NULL);
        return err_set(e, ST_WIRE,
                       "the server's events came out of order; do client and server belong together?");
    }
    if (ev->event_case == OUTRIDER__V1__EVENT__EVENT_END) {
        keep(&of->end, ev);
        a->n_ended++;
        return 0;
    }
    if (keep_delta(a, of, ev))
        return err_set(e, ST_NOMEM, "out of memory for the answer's logprobs");
    return add_delta(of, ev->delta, e);
}

int stream_next(struct stream *a, const Outrider__V1__Event **event, struct err *e)
{
    ProtobufCMessage *m = NULL;
    int st = grpc_call_next(a->call, &outrider__v1__event__descriptor, &m, e);
    if (st == 0 && a->n_ended < a->n)
        return err_set(e, ST_WIRE, "the server ended the stream without its last event");
    if (st != 1)
        return st;
    Outrider__V1__Event *ev = (Outrider__V1__Event *) m;
    *event = ev;
    st = take(a, ev, e);
    if (st == 0)
        return 1;
    stream_cancel(a);
    return st;
}

void stream_cancel(struct stream *a)
{
    grpc_call_cancel(a->call);
}

static void answer_fini(struct stream_answer *a)
{
    free(a->content.p);
    free(a->reasoning.p);
    free(a->ids);
    drop(&a->end);
    for (size_t i = 0; i < a->n_kept; i++)
        drop(&a->kept[i]);
    free(a->kept);
}

void stream_fini(struct stream *a)
{
    grpc_call_free(a->call);
    if (!a->delta_kept)
        drop(&a->delta);
    drop(&a->begin);
    for (size_t i = 0; i < a->n; i++)
        answer_fini(&a->answer[i]);
    *a = (struct stream){0};
}

const Outrider__V1__Begin *stream_begin(const struct stream *a)
{
    return a->begin ? a->begin->begin : &no_begin;
}

const Outrider__V1__End *stream_end(const struct stream *a)
{
    return a->answer->end ? a->answer->end->end : &no_end;
}

const Outrider__V1__Usage *stream_usage(const struct stream *a)
{
    const Outrider__V1__Usage *u = stream_end(a)->usage;
    return u ? u : &no_usage;
}

const Outrider__V1__Timings *stream_timings(const struct stream *a)
{
    const Outrider__V1__Timings *t = stream_end(a)->timings;
    return t ? t : &no_timings;
}

const Outrider__V1__SpeculationFigures *stream_speculation(const struct stream *a)
{
    const Outrider__V1__SpeculationFigures *s = stream_end(a)->speculation;
    return s ? s : &no_speculation;
}

int stream_is_whole(const struct stream *a)
{
    for (size_t i = 0; i < a->n; i++) {
        const Outrider__V1__Event *end = a->answer[i].end;
        if (!end || (end->end->finish != OUTRIDER__V1__END__FINISH__STOP &&
                     end->end->finish != OUTRIDER__V1__END__FINISH__LENGTH))
            return 0;
    }
    return 1;
}

/* report.c - see report.h. */
#include "client/report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *finish_name(Outrider__V1__End__Finish f)
{
    switch (f) {
    case OUTRIDER__V1__END__FINISH__STOP:
        return "stop";
    case OUTRIDER__V1__END__FINISH__LENGTH:
        return "length";
    case OUTRIDER__V1__END__FINISH__CANCELLED:
        return "cancelled";
    case OUTRIDER__V1__END__FINISH__DEADLINE:
        return "deadline";
    default:
        return "none";
    }
}

const char *report_finish(const struct stream *a)
{
    return finish_name(stream_end(a)->finish);
}

double report_tokens_per_pass(const struct stream *a)
{
    const Outrider__V1__SpeculationFigures *f = stream_speculation(a);
    return f->passes > 0 ? 1 + (double) f->accepted / f->passes : 0;
}

void report_figures(struct show *s, const struct stream *a)
{
    const Outrider__V1__Usage *u = stream_usage(a);
    const Outrider__V1__Timings *t = stream_timings(a);
    double rate = t->decode_ms > 0 ? u->completion_tokens / t->decode_ms * 1e3 : 0;
    show_note(
        s,
        "[%d tokens, %d reasoning%s, first after %.1f ms, %.1f tokens/s, %.2f tokens/pass, seed %" PRIu64
        "%s%s]",
        u->completion_tokens, u->reasoning_tokens,
        stream_end(a)->thinking_cut      ? " (cut)"
        : stream_end(a)->closed_at__case ? " (closed)"
                                         : "",
        t->first_token_ms, rate, report_tokens_per_pass(a), stream_begin(a)->seed,
        stream_end(a)->finish == OUTRIDER__V1__END__FINISH__STOP ? "" : ", ended by ",
        stream_end(a)->finish == OUTRIDER__V1__END__FINISH__STOP ? "" : report_finish(a));
}

int report_synthetic(const float *rate, size_t n, char *text, size_t bytes)
{
    size_t at = (size_t) snprintf(text, bytes, "SYNTHETIC ACCEPTANCE (");
    for (size_t i = 0; i < n && at < bytes; i++)
        at += (size_t) snprintf(text + at, bytes - at, "%s%.4g", i ? ", " : "", (double) rate[i]);
    if (at < bytes)
        snprintf(
            text + at, bytes - at,
            " by depth): guesses are kept by a coin, the text is not the target's; only the timing counts");
    return n > 0;
}

int report_synthetic_of(const Outrider__V1__Resolved *r, char *text, size_t bytes)
{
    *text = 0;
    return r && report_synthetic(r->synthetic_acceptance, r->n_synthetic_acceptance, text, bytes);
}

void report_synthetic_warn(const char *command, const struct stream *a)
{
    struct err e;
    if (report_synthetic_of(stream_begin(a)->resolved, e.text, sizeof e.text))
        show_error(command, &e);
}

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *seed_json(uint64_t seed)
{
    return json_sprintf("%" PRIu64, seed);
}

/* The shortest decimal that reads back as f: 0.95, not 0.949999988079071. */
static json_t *float_json(float f)
{
    char s[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, (double) f);
        if (strtof(s, NULL) == f)
            break;
    }
    return json_real(strtod(s, NULL));
}

/* Under synthetic acceptance alone: its rates by depth. */
static void add_rates(json_t *j, const float *rate, size_t n)
{
    json_t *list = j && n ? json_array() : NULL;
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, float_json(rate[i]));
    if (list)
        json_object_set_new(j, "synthetic_acceptance", list);
}

static json_t *resolved_json(const Outrider__V1__Resolved *r)
{
    if (!r)
        return json_null();
    json_t *j =
        json_pack("{s:o, s:i, s:o, s:o, s:i, s:i, s:b, s:i, s:o, s:o, s:o, s:o, s:i, s:i, s:i}",
                  "temperature", float_json(r->temperature), "top_k", r->top_k, "top_p", float_json(r->top_p),
                  "min_p", float_json(r->min_p), "min_tokens", r->min_tokens, "max_tokens", r->max_tokens,
                  "thinking", r->thinking, "thinking_budget", r->thinking_budget, "eos_token_ids",
                  ids_json(r->eos_token_ids, r->n_eos_token_ids), "repetition_penalty",
                  float_json(r->repetition_penalty), "presence_penalty", float_json(r->presence_penalty),
                  "frequency_penalty", float_json(r->frequency_penalty), "n", r->n, "thinking_deadline_ms",
                  r->thinking_deadline_ms, "priority", r->priority);
    add_rates(j, r->synthetic_acceptance, r->n_synthetic_acceptance);
    return j;
}

static json_t *usage_json(const Outrider__V1__Usage *u)
{
    if (!u)
        return json_null();
    return json_pack("{s:i, s:i, s:i, s:i}", "prompt_tokens", u->prompt_tokens, "completion_tokens",
                     u->completion_tokens, "reasoning_tokens", u->reasoning_tokens, "cached_tokens",
                     u->cached_tokens);
}

static json_t *timings_json(const Outrider__V1__Timings *t)
{
    if (!t)
        return json_null();
    return json_pack("{s:f, s:f, s:f, s:f}", "queue_ms", t->queue_ms, "prefill_ms", t->prefill_ms,
                     "decode_ms", t->decode_ms, "first_token_ms", t->first_token_ms);
}

static json_t *speculation_json(const Outrider__V1__SpeculationFigures *f)
{
    if (!f)
        return json_null();
    json_t *j = json_pack(
        "{s:i, s:i, s:i, s:o, s:o, s:i}", "passes", f->passes, "drafted", f->drafted, "accepted", f->accepted,
        "drafted_by_depth", ids_json(f->drafted_by_depth, f->n_drafted_by_depth), "accepted_by_depth",
        ids_json(f->accepted_by_depth, f->n_accepted_by_depth), "preemptions", f->preemptions);
    if (j && f->synthetic)
        json_object_set_new(j, "synthetic", json_true());
    return j;
}

static json_t *matched_json(const Outrider__V1__End *end)
{
    if (end->matched_case == OUTRIDER__V1__END__MATCHED_STOP_TOKEN_ID)
        return json_pack("{s:i}", "stop_token_id", end->stop_token_id);
    if (end->matched_case == OUTRIDER__V1__END__MATCHED_EOS_TOKEN_ID)
        return json_pack("{s:i}", "eos_token_id", end->eos_token_id);
    if (end->matched_case == OUTRIDER__V1__END__MATCHED_STOP_STRING)
        return json_pack("{s:s}", "stop_string", end->stop_string);
    return json_null();
}

/* JSON has no infinity: what the cuts leave out is null. */
static json_t *number_json(float f)
{
    return isfinite(f) ? json_real((double) f) : json_null();
}

static json_t *top_json(const Outrider__V1__TopLogprob *t)
{
    json_t *j = json_pack("{s:i, s:o}", "token", t->token, "logprob", number_json(t->logprob));
    if (j && t->processed__case)
        json_object_set_new(j, "processed", number_json(t->processed));
    return j;
}

static json_t *logprob_json(const Outrider__V1__TokenLogprob *l)
{
    json_t *top = json_array();
    for (size_t k = 0; k < l->n_top; k++)
        json_array_append_new(top, top_json(l->top[k]));
    json_t *j = json_pack("{s:o, s:o}", "logprob", l->logprob__case ? number_json(l->logprob) : json_null(),
                          "top", top);
    if (j && l->processed__case)
        json_object_set_new(j, "processed", number_json(l->processed));
    return j;
}

/* [{"logprob": x or null, "top": [{"token": id, "logprob": x}, ...]}, ...], a token each. */
static json_t *logprobs_json(Outrider__V1__TokenLogprob *const *l, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, logprob_json(l[i]));
    return list;
}

static json_t *closed_json(int32_t at)
{
    return at < 0 ? json_null() : json_integer(at);
}

/* What one answer is, finished or not. */
static json_t *one_answer(const struct stream_answer *a)
{
    static const Outrider__V1__End nothing = OUTRIDER__V1__END__INIT;
    const Outrider__V1__End *end = a->end ? a->end->end : &nothing;
    json_t *j = json_pack(
        "{s:s%, s:s%, s:o, s:s, s:o, s:b, s:o, s:o, s:o, s:o}", "text", words_str(&a->content), a->content.n,
        "reasoning", words_str(&a->reasoning), a->reasoning.n, "token_ids", ids_json(a->ids, a->n_ids),
        "finish", finish_name(end->finish), "matched", matched_json(end), "thinking_cut", end->thinking_cut,
        "closed_at", closed_json(a->closed_at), "usage", usage_json(end->usage), "timings",
        timings_json(end->timings), "speculation", speculation_json(end->speculation));
    json_t *logprobs = j && a->n_kept ? json_array() : NULL;
    for (size_t i = 0; logprobs && i < a->n_kept; i++) {
        const Outrider__V1__Delta *d = a->kept[i]->delta;
        json_t *part = logprobs_json(d->logprobs, d->n_logprobs);
        json_array_extend(logprobs, part);
        json_decref(part);
    }
    if (logprobs)
        json_object_set_new(j, "logprobs", logprobs);
    return j;
}

json_t *report_answer(const struct stream *a)
{
    const Outrider__V1__Begin *b = stream_begin(a);
    json_t *all = json_pack("{s:s, s:s, s:s, s:o}", "seed", "", "fingerprint", b->fingerprint, "request_id",
                            b->request_id, "resolved", resolved_json(b->resolved));
    json_t *choices = a->n > 1 ? json_array() : NULL;
    if (all)
        json_object_set_new(all, "seed", seed_json(b->seed));
    for (size_t i = 0; all && choices && i < a->n; i++)
        json_array_append_new(choices, one_answer(&a->answer[i]));
    json_t *j = choices ? json_pack("{s:o}", "choices", choices) : one_answer(a->answer);
    if (!j || !all) {
        json_decref(j);
        json_decref(all);
        return NULL;
    }
    json_object_update(j, all);
    json_decref(all);
    return j;
}

static json_t *delta_json(const Outrider__V1__Delta *d)
{
    json_t *j =
        json_pack("{s:s, s:i, s:s, s:s, s:o}", "event", "delta", "choice", d->choice, "content", d->content,
                  "reasoning", d->reasoning, "token_ids", ids_json(d->token_ids, d->n_token_ids));
    if (j && d->n_logprobs)
        json_object_set_new(j, "logprobs", logprobs_json(d->logprobs, d->n_logprobs));
    if (j && d->closed_at__case)
        json_object_set_new(j, "closed_at", json_integer(d->closed_at));
    return j;
}

json_t *report_event(const Outrider__V1__Event *ev)
{
    const Outrider__V1__Begin *b = ev->begin;
    const Outrider__V1__Delta *d = ev->delta;
    const Outrider__V1__End *end = ev->end;
    switch (ev->event_case) {
    case OUTRIDER__V1__EVENT__EVENT_BEGIN:
        return json_pack("{s:s, s:s, s:o, s:s, s:i, s:i, s:o}", "event", "begin", "request_id", b->request_id,
                         "seed", seed_json(b->seed), "fingerprint", b->fingerprint, "prompt_tokens",
                         b->prompt_tokens, "cached_tokens", b->cached_tokens, "resolved",
                         resolved_json(b->resolved));
    case OUTRIDER__V1__EVENT__EVENT_DELTA:
        return delta_json(d);
    default:
        return json_pack("{s:s, s:i, s:s, s:o, s:b, s:o, s:o, s:o, s:o}", "event", "end", "choice",
                         end->choice, "finish", finish_name(end->finish), "matched", matched_json(end),
                         "thinking_cut", end->thinking_cut, "usage", usage_json(end->usage), "timings",
                         timings_json(end->timings), "speculation", speculation_json(end->speculation),
                         "seed", seed_json(end->seed));
    }
}

json_t *report_model(const Outrider__V1__Model *m)
{
    json_t *j = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:s, s:o, s:s, s:s}", "name", m->name, "fingerprint",
        m->fingerprint, "device", m->device, "version", m->version, "context_max", m->context_max, "vocab",
        m->vocab, "sessions_max", m->sessions_max, "queue_max", m->queue_max, "draft", m->draft, "defaults",
        resolved_json(m->defaults), "template", m->template_, "tokenizer_hash", m->tokenizer_hash);
    if (m->defaults)
        add_rates(j, m->defaults->synthetic_acceptance, m->defaults->n_synthetic_acceptance);
    return j;
}

static json_t *count_json(uint64_t n)
{
    return json_integer((json_int_t) n);
}

static json_t *counts_json(const uint64_t *n, size_t many)
{
    json_t *list = json_array();
    for (size_t i = 0; i < many; i++)
        json_array_append_new(list, count_json(n[i]));
    return list;
}

static json_t *requests_json(const Outrider__V1__RequestCounts *r)
{
    if (!r)
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "received", count_json(r->received), "stop",
                     count_json(r->stop), "length", count_json(r->length), "cancelled",
                     count_json(r->cancelled), "deadline", count_json(r->deadline), "failed",
                     count_json(r->failed), "refused", count_json(r->refused));
}

static json_t *drafts_json(const Outrider__V1__Stats *m)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "drafted", count_json(m->drafted_tokens),
                     "accepted", count_json(m->accepted_tokens), "drafted_by_depth",
                     counts_json(m->drafted_by_depth, m->n_drafted_by_depth), "accepted_by_depth",
                     counts_json(m->accepted_by_depth, m->n_accepted_by_depth), "drafted_by_model",
                     count_json(m->drafted_by_model), "accepted_by_model", count_json(m->accepted_by_model),
                     "drafted_by_lookup", count_json(m->drafted_by_lookup), "accepted_by_lookup",
                     count_json(m->accepted_by_lookup));
}

static json_t *costs_json(Outrider__V1__PassCost *const *cost, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(a, json_pack("{s:i, s:f}", "rows", cost[i]->rows, "ms", cost[i]->ms)))
            break;
    return a;
}

/* null: nothing is drafted by cost. */
static json_t *drafting_json(const Outrider__V1__Drafting *d)
{
    if (!d)
        return json_null();
    return json_pack(
        "{s:o, s:o, s:f, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "target",
        costs_json(d->target, d->n_target), "level", costs_json(d->level, d->n_level), "overhead_ms",
        d->overhead_ms, "speedup", d->speedup, "rounds_drafted", count_json(d->rounds_drafted),
        "rounds_looked_up", count_json(d->rounds_looked_up), "rounds_no_gain", count_json(d->rounds_no_gain),
        "rounds_owed", count_json(d->rounds_owed), "rounds_rested", count_json(d->rounds_rested),
        "rounds_measured", count_json(d->rounds_measured), "rounds_waited", count_json(d->rounds_waited),
        "probes", count_json(d->probes), "levels", count_json(d->levels), "why", d->why);
}

json_t *report_stats(const Outrider__V1__Stats *m)
{
    json_t *j = json_pack(
        "{s:f, s:o, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:i, s:i, s:I, s:o}",
        "uptime_s", m->uptime_s, "requests", requests_json(m->requests), "sessions_active",
        m->sessions_active, "sessions_waiting", m->sessions_waiting, "sessions_parked", m->sessions_parked,
        "prompt_tokens", count_json(m->prompt_tokens), "cached_tokens", count_json(m->cached_tokens),
        "output_tokens", count_json(m->output_tokens), "speculation", drafts_json(m), "rows",
        count_json(m->rows), "passes", count_json(m->passes), "preemptions", count_json(m->preemptions),
        "pages_used", (json_int_t) m->pages_used, "pages_cached", (json_int_t) m->pages_cached, "pages_free",
        (json_int_t) m->pages_free, "connections", m->connections, "streams", m->streams, "rss_bytes",
        (json_int_t) m->rss_bytes, "drafting", drafting_json(m->drafting));
    add_rates(j, m->synthetic_acceptance, m->n_synthetic_acceptance);
    return j;
}

int report_print(json_t *j, struct err *e)
{
    if (!j)
        return err_set(e, ST_NOMEM,
                       "the JSON cannot be made: out of memory, or the server sent text that is not UTF-8");
    int rc = json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15)); /* 0.6, not 0.59999999999999998 */
    json_decref(j);
    if (rc || fputc('\n', stdout) == EOF || fflush(stdout))
        return err_set(e, ST_IO, "cannot write to standard output: %s", strerror(errno));
    return 0;
}

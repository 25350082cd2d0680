/* follow.c - see follow.h. */
#include "client/follow.h"

#include "client/report.h"

#include <errno.h>
#include <string.h>

static int show_event(const struct follow *f, const Outrider__V1__Event *ev, struct err *e)
{
    if (f->events)
        return report_print(report_event(ev), e);
    if (!f->show || ev->event_case != OUTRIDER__V1__EVENT__EVENT_DELTA)
        return 0;
    show_delta(f->show, ev->delta->reasoning, ev->delta->content);
    return ferror(f->show->to) ? err_set(e, ST_IO, "cannot write the answer: %s", strerror(errno)) : 0;
}

void follow_begin(const struct follow *f)
{
    if (f->show)
        show_answer(f->show);
}

int follow_more(const struct follow *f, struct stream *a, struct err *e)
{
    const Outrider__V1__Event *ev;
    int st;
    while ((st = stream_next(a, &ev, e)) == 1) {
        st = show_event(f, ev, e);
        if (st)
            return st;
        if (f->break_after && a->answer->n_ids >= f->break_after && !a->answer->end) {
            e->text[0] = 0;
            return ST_CANCELLED;
        }
    }
    return st;
}

void follow_end(const struct follow *f, struct stream *a, int st)
{
    if (st)
        stream_cancel(a);
    if (f->show && f->show->terminal)
        show_break(f->show);
}

int follow_answer(const struct follow *f, struct stream *a, struct err *e)
{
    follow_begin(f);
    int st = follow_more(f, a, e);
    follow_end(f, a, st);
    return st;
}

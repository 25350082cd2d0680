/* show.c - see show.h. */
#include "client/show.h"

#include "client/words.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define DIM   "\033[2m"
#define PLAIN "\033[0m"

enum { NOTE_BYTES = 1024 };

void show_init(struct show *s, FILE *to)
{
    *s = (struct show){.to = to, .terminal = isatty(fileno(to)), .at_line_end = 1};
    s->laid_out = s->terminal;
}

static void set_dim(struct show *s, int dim)
{
    if (s->terminal && s->dim != dim)
        fputs(dim ? DIM : PLAIN, s->to);
    s->dim = dim;
}

/* Characters a terminal would obey, or that make text read other than it is written. */
static int is_harmful(unsigned c)
{
    return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0) || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0x2028 || c == 0x2029;
}

static void write_safe(FILE *to, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        unsigned c;
        size_t used = words_char(p + i, n - i, &c);
        if (used == 0)
            fprintf(to, "\\x%02x", (unsigned char) p[i]);
        else if (!is_harmful(c))
            fwrite(p + i, 1, used, to);
        else
            fprintf(to, c < 0x80 ? "\\x%02x" : "\\u%04x", c);
        i += used ? used : 1;
    }
}

void show_text(struct show *s, const char *p, size_t n, int dim)
{
    if (n == 0)
        return;
    set_dim(s, dim);
    if (s->terminal)
        write_safe(s->to, p, n);
    else
        fwrite(p, 1, n, s->to);
    s->at_line_end = p[n - 1] == '\n';
    fflush(s->to);
}

void show_break(struct show *s)
{
    set_dim(s, 0);
    if (!s->at_line_end)
        fputc('\n', s->to);
    s->at_line_end = 1;
    fflush(s->to);
}

void show_answer(struct show *s)
{
    s->part = SHOW_NOTHING;
    s->fresh = 1;
}

static void turn_to(struct show *s, int part)
{
    if (s->part == part)
        return;
    int before = s->part;
    s->part = part;
    s->fresh = 1;
    if (s->laid_out) {
        show_break(s);
        if (before != SHOW_NOTHING)
            fputc('\n', s->to);
    } else if (s->tags && part == SHOW_REASONING) {
        fputs("<think>\n", s->to);
    } else if (s->tags && before == SHOW_REASONING) {
        fputs("\n</think>\n\n", s->to);
    }
}

static void show_part(struct show *s, int part, const char *p)
{
    if (!*p)
        return;
    turn_to(s, part);
    if (s->fresh && s->laid_out)
        p += strspn(p, "\n");
    if (*p)
        s->fresh = 0;
    show_text(s, p, strlen(p), part == SHOW_REASONING);
}

void show_delta(struct show *s, const char *reasoning, const char *content)
{
    if (s->laid_out || s->tags)
        show_part(s, SHOW_REASONING, reasoning);
    show_part(s, SHOW_CONTENT, content);
}

void show_note(struct show *s, const char *fmt, ...)
{
    char line[NOTE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    show_break(s);
    show_text(s, line, strlen(line), 1);
    show_break(s);
}

void show_error(const char *command, const struct err *e)
{
    struct show s;
    show_init(&s, stderr);
    fprintf(stderr, "outrider %s: ", command);
    show_text(&s, e->text, strlen(e->text), 0);
    show_break(&s);
}

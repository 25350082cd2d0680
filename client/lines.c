/* lines.c - see lines.h.
 *
 * While a line is edited the terminal sends no SIGINT (isig is off), so Ctrl-C is a key like the others. */
#include "client/lines.h"

#include "client/words.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HISTORY_LINES = 500,
    AHEAD_BYTES = 4096,     /* of a line that a terminal edits itself; Linux takes no longer one */
    AHEAD_MAX = 256 * 4096, /* bytes typed ahead; a paste over that loses its end */
};

struct lines {
    EditLine *el;     /* owns; NULL for a pipe */
    History *history; /* owns; likewise */
    char *line;       /* owns; (cap) bytes: the newest line */
    size_t cap;
    int edits;          /* 1: libedit edits; 0: ~/.editrc turned it off, and el_push with it */
    int gone;           /* 1: the terminal can be read no more */
    struct words ahead; /* typed ahead, not yet given to libedit */
};

static char *prompt(EditLine *el)
{
    static char text[] = "> "; /* libedit wants it writable */
    (void) el;
    return text;
}

static int edit_open(struct lines *l)
{
    HistEvent ev;
    l->history = history_init();
    l->el = el_init("outrider", stdin, stdout, stderr);
    if (!l->history || !l->el)
        return ST_NOMEM;
    history(l->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(l->history, &ev, H_SETUNIQUE, 1);
    el_set(l->el, EL_PROMPT, prompt);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_HIST, history, l->history);
    el_set(l->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(l->el, NULL);
    el_set(l->el, EL_SETTY, "-d", "-isig", NULL);
    el_set(l->el, EL_BIND, "^C", "em-kill-line", NULL);
    /* A Ctrl-D typed during an answer arrives as ^@; taken as a mark it would spoil the next Ctrl-D. */
    el_set(l->el, EL_BIND, "^@", "ed-ignore", NULL);
    el_get(l->el, EL_EDITMODE, &l->edits);
    return 0;
}

struct lines *lines_open(void)
{
    struct lines *l = calloc(1, sizeof *l);
    if (!l || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return l;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8"); /* the daemon speaks UTF-8 whatever the environment says */
    if (edit_open(l)) {
        lines_close(l);
        return NULL;
    }
    return l;
}

void lines_close(struct lines *l)
{
    if (!l)
        return;
    if (l->el)
        el_end(l->el);
    if (l->history)
        history_end(l->history);
    free(l->line);
    free(l->ahead.p);
    free(l);
}

int lines_terminal(const struct lines *l)
{
    return l->el != NULL;
}

int lines_fd(const struct lines *l)
{
    return l->el && l->edits && !l->gone ? STDIN_FILENO : -1;
}

static int typed_nothing(const struct lines *l)
{
    return l->ahead.n == 0 || l->ahead.p[l->ahead.n - 1] == '\n';
}

int lines_ahead(struct lines *l)
{
    char buf[AHEAD_BYTES];
    struct pollfd p = {.fd = lines_fd(l), .events = POLLIN};
    if (poll(&p, 1, 0) <= 0)
        return 0;
    ssize_t n = p.revents & POLLIN ? read(STDIN_FILENO, buf, sizeof buf) : 0;
    if (p.revents & ~POLLIN || (n < 0 && errno != EINTR)) /* it would be readable for ever */
        l->gone = 1;
    if (n == 1 && *buf == '\n' && typed_nothing(l))
        return 1;
    for (ssize_t i = 0; i < n && l->ahead.n < AHEAD_MAX; i++)
        if (buf[i] &&
            words_add(&l->ahead, &buf[i], 1)) /* without ^@: libedit takes a string, and ignores the key */
            break;
    return 0;
}

void lines_forget(struct lines *l)
{
    l->ahead.n = 0;
}

/* The first line typed ahead becomes keys again; the others wait for their turn. */
static void type_again(struct lines *l)
{
    char *end = l->ahead.n ? memchr(l->ahead.p, '\n', l->ahead.n) : NULL;
    size_t n = end ? (size_t) (end - l->ahead.p) + 1 : l->ahead.n;
    char *keys = n ? strndup(l->ahead.p, n) : NULL;
    if (!keys)
        return;
    el_push(l->el, keys);
    free(keys);
    l->ahead.n -= n;
    memmove(l->ahead.p, l->ahead.p + n, l->ahead.n);
}

static int next_typed(struct lines *l)
{
    int n = 0;
    type_again(l);
    /* Before the prompt, which invites keys: a Ctrl-D typed sooner would be lost. */
    el_set(l->el, EL_PREP_TERM, 1);
    const char *s = el_gets(l->el, &n);
    if (!s) {
        putchar('\n'); /* Ctrl-D leaves the cursor behind the prompt */
        return n < 0 ? ST_IO : 0;
    }
    char *line = strndup(s, strcspn(s, "\r\n"));
    if (!line)
        return ST_NOMEM;
    free(l->line);
    l->line = line;
    HistEvent ev;
    if (*line)
        history(l->history, &ev, H_ENTER, line);
    return 1;
}

static int next_piped(struct lines *l)
{
    ssize_t n = getline(&l->line, &l->cap, stdin);
    if (n < 0)
        return feof(stdin) ? 0 : errno == ENOMEM ? ST_NOMEM : ST_IO;
    if (strlen(l->line) != (size_t) n)
        return ST_INPUT;
    for (const char *end = "\n\r"; *end; end++)
        if (n && l->line[n - 1] == *end)
            l->line[--n] = 0;
    return 1;
}

int lines_next(struct lines *l, const char **line)
{
    int st = l->el ? next_typed(l) : next_piped(l);
    if (st == 1)
        *line = l->line;
    return st;
}

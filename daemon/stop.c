/* stop.c - see stop.h.  Knuth, Morris and Pratt's matcher (1977), one a string: `fail` is where to go on after a mismatch. */
#include "daemon/stop.h"

#include <stdlib.h>
#include <string.h>

struct word {
    char *s;                       /* owns */
    size_t n;                      /* bytes, at least 1 */
    uint16_t fail[STOP_BYTES_MAX]; /* [i]: the longest shorter beginning that s[0..i] ends with */
};

struct stops {
    size_t n;
    struct word word[]; /* (n) */
};

static void word_prepare(struct word *w)
{
    size_t k = 0;
    for (size_t i = 1; i < w->n; i++) {
        while (k && w->s[i] != w->s[k])
            k = w->fail[k - 1];
        k += w->s[i] == w->s[k];
        w->fail[i] = (uint16_t) k;
    }
}

static int check(const char *const *s, size_t n, struct err *e)
{
    if (n > STOP_STRINGS_MAX)
        return err_set(e, ST_INPUT, "stopping.stop has %zu strings, the limit is %d", n, STOP_STRINGS_MAX);
    for (size_t i = 0; i < n; i++)
        if (!*s[i] || strlen(s[i]) > STOP_BYTES_MAX)
            return err_set(e, ST_INPUT, "stopping.stop[%zu] has %zu bytes; 1 to %d are expected", i,
                           strlen(s[i]), STOP_BYTES_MAX);
    return 0;
}

int stops_new(struct stops **out, const char *const *s, size_t n, struct err *e)
{
    *out = NULL;
    int st = check(s, n, e);
    if (st || n == 0)
        return st;
    struct stops *w = calloc(1, sizeof *w + n * sizeof *w->word);
    if (!w)
        return err_set(e, ST_NOMEM, "out of memory");
    for (; w->n < n; w->n++) {
        struct word *to = &w->word[w->n];
        to->s = strdup(s[w->n]);
        if (!to->s) {
            stops_free(w);
            return err_set(e, ST_NOMEM, "out of memory");
        }
        to->n = strlen(to->s);
        word_prepare(to);
    }
    *out = w;
    return 0;
}

void stops_free(struct stops *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n; i++)
        free(w->word[i].s);
    free(w);
}

const char *stops_word(const struct stops *w, int i)
{
    return w->word[i].s;
}

size_t stops_bytes(const struct stops *w, int i)
{
    return w->word[i].n;
}

int stop_push(const struct stops *w, struct stop_state *s, uint8_t byte)
{
    int found = -1;
    for (size_t i = 0; i < w->n; i++) {
        const struct word *o = &w->word[i];
        size_t k = s->at[i];
        while (k && (uint8_t) o->s[k] != byte)
            k = o->fail[k - 1];
        k += (uint8_t) o->s[k] == byte;
        s->at[i] = (uint16_t) k;
        if (k < o->n)
            continue;
        s->at[i] = o->fail[k - 1]; /* s[n] is no byte to compare with */
        if (found < 0 || o->n > w->word[found].n)
            found = (int) i;
    }
    return found;
}

size_t stop_pending(const struct stops *w, const struct stop_state *s)
{
    size_t most = 0;
    for (size_t i = 0; i < w->n; i++)
        most = s->at[i] > most ? s->at[i] : most;
    return most;
}

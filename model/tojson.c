/* tojson.c - JSON written as Python's json.dumps(ensure_ascii=False) writes it: ", " and ": ", keys in their order,
 * integers of any size as they are, floats by repr.
 *
 * Source: CPython's Lib/json/encoder.py and Python/dtoa.c (mode 0), through transformers' `tojson`.  Python reads 1e400 as
 * infinity and writes Infinity; so does this.  LC_NUMERIC must be C, as it is where nobody calls setlocale for it.  Pure
 * functions; a jout belongs to one caller. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/jdoc.h"

enum {
    DIGITS_MAX = 17, /* significant decimal digits that tell any two doubles apart */
    REPR_BYTES = 64, /* of a float in repr's form: sign, 17 digits, up to 16 zeros, point, exponent */
};

void jout_free(struct jout *o)
{
    free(o->p);
    *o = (struct jout){0};
}

void jout_add(struct jout *o, const void *p, size_t n)
{
    if (o->status < 0 || n == 0)
        return;
    if (n > o->cap - o->n) {
        size_t cap = o->cap ? o->cap : 256;
        while (cap - o->n < n)
            cap *= 2;
        char *q = realloc(o->p, cap);
        if (!q) {
            o->status = ST_NOMEM;
            return;
        }
        o->p = q;
        o->cap = cap;
    }
    memcpy(o->p + o->n, p, n);
    o->n += n;
}

void jout_str(struct jout *o, const char *s)
{
    jout_add(o, s, strlen(s));
}

void jout_int(struct jout *o, int64_t v)
{
    char s[24];
    jout_add(o, s, (size_t) snprintf(s, sizeof s, "%lld", (long long) v));
}

static void escape(struct jout *o, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c ? strchr(from, c) : NULL;
    char s[8];
    if (at)
        jout_add(o, (char[]){'\\', to[at - from]}, 2);
    else
        jout_add(o, s, (size_t) snprintf(s, sizeof s, "\\u%04x", c));
}

void jout_quote(struct jout *o, const char *s, size_t n)
{
    size_t from = 0;
    jout_add(o, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char) s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        jout_add(o, s + from, i - from);
        escape(o, c);
        from = i + 1;
    }
    jout_add(o, s + from, n - from);
    jout_add(o, "\"", 1);
}

/* Adds one unit in the last place of a decimal number; an overflow of all nines becomes 1 with a higher exponent. */
static void digits_up(char *digit, int n, int *exp10)
{
    int i = n - 1;
    while (i >= 0 && digit[i] == '9')
        digit[i--] = '0';
    if (i >= 0) {
        digit[i]++;
        return;
    }
    digit[0] = '1';
    ++*exp10;
}

static int reads_back(const char *digit, int n, int exp10, double v)
{
    char s[REPR_BYTES];
    snprintf(s, sizeof s, "%.*se%d", n, digit, exp10 - (n - 1));
    return strtod(s, NULL) == v;
}

/* The shortest digits that read back as v > 0, the nearest to v among those: v = d.ddd * 10^exp10.  At a power of two the
 * gap above v is twice the one below, so the nearest n digits may lie below and fail where the next ones up succeed. */
static int shortest(double v, char *digit, int *exp10)
{
    char s[REPR_BYTES], up[DIGITS_MAX + 1];
    for (int n = 1;; n++) {
        snprintf(s, sizeof s, "%.*e", n - 1, v);
        digit[0] = s[0];
        if (n > 1)
            memcpy(digit + 1, s + 2, (size_t) n - 1);
        *exp10 = atoi(strchr(s, 'e') + 1);
        if (n == DIGITS_MAX || reads_back(digit, n, *exp10, v))
            return n;
        int up10 = *exp10;
        memcpy(up, digit, (size_t) n);
        digits_up(up, n, &up10);
        if (reads_back(up, n, up10, v)) {
            memcpy(digit, up, (size_t) n);
            *exp10 = up10;
            return n;
        }
    }
}

static void zeros(struct jout *o, int n)
{
    while (n-- > 0)
        jout_add(o, "0", 1);
}

/* repr's choice: an exponent below 1e-4 and from 1e16 on. */
static void put_digits(struct jout *o, const char *digit, int n, int exp10)
{
    char s[16];
    if (exp10 < -4 || exp10 >= 16) {
        jout_add(o, digit, 1);
        if (n > 1) {
            jout_str(o, ".");
            jout_add(o, digit + 1, (size_t) n - 1);
        }
        jout_add(o, s, (size_t) snprintf(s, sizeof s, "e%c%02d", exp10 < 0 ? '-' : '+', abs(exp10)));
    } else if (exp10 < 0) {
        jout_str(o, "0.");
        zeros(o, -exp10 - 1);
        jout_add(o, digit, (size_t) n);
    } else {
        int whole = n < exp10 + 1 ? n : exp10 + 1;
        jout_add(o, digit, (size_t) whole);
        zeros(o, exp10 + 1 - whole);
        jout_str(o, ".");
        if (n > whole)
            jout_add(o, digit + whole, (size_t) (n - whole));
        else
            jout_str(o, "0");
    }
}

static void put_float(struct jout *o, double v)
{
    char digit[DIGITS_MAX + 1];
    int exp10;
    if (signbit(v))
        jout_str(o, "-");
    v = fabs(v);
    if (isinf(v)) {
        jout_str(o, "Infinity");
    } else if (v == 0) {
        jout_str(o, "0.0");
    } else {
        int n = shortest(v, digit, &exp10);
        put_digits(o, digit, n, exp10);
    }
}

/* text is a number in JSON's grammar, followed by a byte that cannot continue it or by the end of its text. */
static void put_number(struct jout *o, const char *text, size_t n)
{
    char s[128], *copy = s;
    int real = 0;
    for (size_t i = 0; i < n; i++)
        real |= text[i] == '.' || text[i] == 'e' || text[i] == 'E';
    if (!real) {
        int minus_zero = n == 2 && text[0] == '-' && text[1] == '0';
        jout_add(o, text + minus_zero, n - (size_t) minus_zero);
        return;
    }
    if (n >= sizeof s && !(copy = malloc(n + 1))) {
        o->status = ST_NOMEM;
        return;
    }
    memcpy(copy, text, n);
    copy[n] = '\0';
    put_float(o, strtod(copy, NULL));
    if (copy != s)
        free(copy);
}

static void put_items(struct jout *o, const struct jnode *x)
{
    const struct jnode *item = jnode_first(x);
    for (uint32_t i = 0; i < x->n; i++, item = jnode_next(item)) {
        if (i)
            jout_str(o, ", ");
        if (x->type == JNODE_OBJECT) {
            jout_quote(o, item->text, item->bytes);
            jout_str(o, ": ");
            item++;
        }
        jout_node(o, item);
    }
}

void jout_node(struct jout *o, const struct jnode *x)
{
    switch (x->type) {
    case JNODE_STRING:
        jout_quote(o, x->text, x->bytes);
        break;
    case JNODE_NUMBER:
        put_number(o, x->text, x->bytes);
        break;
    case JNODE_ARRAY:
        jout_str(o, "[");
        put_items(o, x);
        jout_str(o, "]");
        break;
    case JNODE_OBJECT:
        jout_str(o, "{");
        put_items(o, x);
        jout_str(o, "}");
        break;
    default:
        jout_add(o, x->text, x->bytes);
    }
}

/* tokenizer.c - how fast text becomes ids, on one core: JSON to stdout.
 *
 *   bench/tokenizer [DIR [FILE...]]     DIR: a tokenizer (default ../shared/qwen3); FILE: texts (default: made-up ones)
 *
 * Each text is encoded five times; the fastest counts.  Seconds are of this thread on the CPU, so that a busy machine shows
 * little. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/jdoc.h"
#include "model/tokenizer.h"
#include "tests/lib/text.h"

enum { ROUNDS = 5, TEXT_BYTES = 2 << 20 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

static double best_of(const struct tokenizer *t, const char *p, size_t n, size_t *ids)
{
    double best = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        struct tokens out = {0};
        struct err e = {0};
        double start = now_s();
        if (tokenizer_encode(t, p, n, TOKENIZER_ADDED, &out, &e) < 0) {
            fprintf(stderr, "%s\n", e.text);
            exit(1);
        }
        double took = now_s() - start;
        best = took < best ? took : best;
        *ids = out.n;
        free(out.id);
    }
    return best;
}

static void report(const struct tokenizer *t, const char *name, const char *p, size_t n)
{
    size_t ids;
    double s = best_of(t, p, n, &ids);
    printf("{\"bench\": \"tokenizer\", \"text\": \"%s\", \"bytes\": %zu, \"ids\": %zu, \"seconds\": %.4f, "
           "\"mb_per_s\": %.2f}\n",
           name, n, ids, s, (double) n / s / 1e6);
}

/* Words of many lengths, by Zipf's law, with the punctuation and line ends of prose. */
static const char *const words[] = {
    "the",         "of",          "and",
    "to",          "in",          "a",
    "that",        "is",          "was",
    "he",          "for",         "it",
    "with",        "as",          "his",
    "on",          "be",          "at",
    "by",          "had",         "not",
    "are",         "but",         "from",
    "or",          "have",        "an",
    "they",        "which",       "one",
    "you",         "were",        "her",
    "all",         "she",         "there",
    "would",       "their",       "we",
    "him",         "been",        "has",
    "when",        "who",         "will",
    "more",        "no",          "if",
    "out",         "so",          "said",
    "what",        "up",          "its",
    "about",       "into",        "than",
    "them",        "can",         "only",
    "other",       "new",         "some",
    "could",       "time",        "these",
    "two",         "may",         "then",
    "do",          "first",       "any",
    "my",          "now",         "such",
    "like",        "our",         "over",
    "man",         "me",          "even",
    "most",        "made",        "after",
    "also",        "did",         "many",
    "before",      "must",        "through",
    "years",       "where",       "much",
    "your",        "way",         "well",
    "down",        "should",      "because",
    "each",        "just",        "those",
    "people",      "mister",      "government",
    "language",    "something",   "understand",
    "sentences",   "London's",    "weathered",
    "lighthouse",  "thermometer", "impassive",
    "spectral",    "ludicrously", "harbours",
    "Tuesday",     "I've",        "unmistakable",
    "antiquarian", "Rotterdam",   "parenthetically",
};

static uint32_t next_random(uint64_t *x)
{
    *x = *x * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t) (*x >> 33);
}

static size_t make_english(char *p, size_t n)
{
    static const char *const end[] = {" ",  " ",  " ",  " ",     " ",  " ",   " ", " ",
                                      ", ", ", ", ". ", ".\n\n", "; ", " - ", "\n"};
    size_t k = 0, count = sizeof words / sizeof *words;
    uint64_t x = 1;
    while (k + 64 < n) {
        size_t i = next_random(&x) % count;
        if (next_random(&x) % 3)
            i = i * (next_random(&x) % count) / count;
        k += (size_t) sprintf(p + k, "%s%s", words[i], end[next_random(&x) % (sizeof end / sizeof *end)]);
    }
    return k;
}

static size_t make_chinese(char *p, size_t n)
{
    size_t k = 0;
    uint64_t x = 2;
    for (; k + 4 < n; k += 3) {
        uint32_t c = 0x4e00 + next_random(&x) % 3000;
        if (next_random(&x) % 12 == 0)
            c = 0xff0c;
        sprintf(p + k, "%c%c%c", (int) (0xe0 | c >> 12), (int) (0x80 | (c >> 6 & 63)),
                (int) (0x80 | (c & 63)));
    }
    return k;
}

static size_t make_code(char *p, size_t n)
{
    static const char line[] =
        "    for (int i = 0; i < n_items; i++) {\n        sum += table[i].weight * 1024;  // 0x400\n    }\n\n"
        "static const struct option *find_option(const char *name, size_t length)\n{\n";
    size_t k = 0;
    for (; k + sizeof line < n; k += sizeof line - 1)
        memcpy(p + k, line, sizeof line - 1);
    return k;
}

static void report_made_up(const struct tokenizer *t)
{
    char *p = malloc(TEXT_BYTES);
    if (!p)
        exit(1);
    report(t, "english", p, make_english(p, TEXT_BYTES));
    report(t, "chinese", p, make_chinese(p, TEXT_BYTES));
    report(t, "code", p, make_code(p, TEXT_BYTES));
    memset(p, 'a', 1 << 20);
    report(t, "one letter, one word", p, 1 << 20);
    memset(p, ' ', 1 << 20);
    p[(1 << 20) - 1] = 'x';
    report(t, "spaces", p, 1 << 20);
    for (size_t i = 0; i < 1 << 20; i += 4)
        memcpy(p + i, i % 8 ? "\xcc\x95\xcc\x96" : "\xcc\xa1\xcc\x81", 4);
    report(t, "combining marks", p, 1 << 20);
    free(p);
}

int main(int argc, char **argv)
{
    struct tokenizer *t;
    struct err e = {0};
    double start = now_s();
    if (tokenizer_open(&t, argc > 1 ? argv[1] : text_shared("qwen3"), &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    printf("{\"bench\": \"tokenizer\", \"open_seconds\": %.3f}\n", now_s() - start);
    for (int i = 2; i < argc; i++) {
        size_t n;
        char *p = text_read(argv[i], &n);
        if (!p) {
            perror(argv[i]);
            return 1;
        }
        report(t, argv[i], p, n);
        free(p);
    }
    if (argc <= 2)
        report_made_up(t);
    tokenizer_close(t);
    return 0;
}

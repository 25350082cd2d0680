/* utf8.h - one step of UTF-8, shared by everything in model/ that reads text from outside.
 *
 * Unicode 15 section 3.9, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef MODEL_UTF8_H
#define MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum utf8_kind { UTF8_WHOLE, UTF8_BAD, UTF8_PARTIAL };

/* What starts at p (n >= 1): a whole character, a maximal ill-formed subpart, or the head of a character that the end of
 * the bytes cuts off.  *len: how many bytes it has, 1..4. */
enum utf8_kind utf8_step(const char *p, size_t n, int *len);

/* Offset of the first byte that is not well-formed UTF-8; n when all is. */
size_t utf8_check(const char *p, size_t n);

/* The character at p, which must be whole; *len is its length. */
uint32_t utf8_get(const char *p, int *len);

/* Writes c (a scalar value) to out (cap >= 4); its length. */
int utf8_put(uint32_t c, char *out);

#endif

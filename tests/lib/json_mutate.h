/* json_mutate.h - a fuzzer's mutator that keeps JSON well-formed: blind changes of bytes seldom get past the parser. */
#ifndef TESTS_LIB_JSON_MUTATE_H
#define TESTS_LIB_JSON_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* Changes one place of the JSON object in text (n bytes, room for cap): sets, removes or renames a member, sometimes inside a
 * nested value.  Returns the new length; 0 when the text is no JSON object or the result does not fit. */
size_t json_mutate(uint8_t *text, size_t n, size_t cap, unsigned seed);

#endif

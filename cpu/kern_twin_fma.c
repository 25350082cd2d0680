/* kern_twin_fma.c - the twins once more, for machines with AVX2 and FMA, where fmaf is an instruction and not a call: the same source,
 * the same bits (tests/pair), up to forty times faster.  For gates that run whole engines on twins.
 *
 * Tried: target_clones in kern_twin.c; its resolvers run before a sanitizer has begun. */
#define cpu__exp       cpu__exp_fma
#define cpu__kern_twin cpu__kern_twin_fma

#include "cpu/kern_twin.c"

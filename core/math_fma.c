/* math_fma.c - math.c for machines with FMA: the same bits (tests/unit/explog.c), a third of the time. */
#define MATH_FMA
#include "core/math.c"

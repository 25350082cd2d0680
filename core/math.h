/* math.h - exp and log that are the same everywhere.
 *
 * libm picks its code by CPU and changes between releases; a last bit of difference here could change a drawn word
 * (NUMERICS.md, house rules).  Only IEEE operations and fma are used, in one fixed order. */
#ifndef CORE_MATH_H
#define CORE_MATH_H

/* log x for finite x > 0, within 1 ulp or so. */
double math_log(double x);

/* exp x, within 1 ulp or so; exactly 0 below -700, infinity above 709. */
double math_exp(double x);

#endif

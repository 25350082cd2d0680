/* math.h - exp and log that are the same everywhere.
 *
 * libm picks its code by CPU and changes between releases; a last bit of difference here could change a drawn word
 * (NUMERICS.md, house rules).  Only IEEE operations and fma are used, in one fixed order. */
#ifndef CORE_MATH_H
#define CORE_MATH_H

/* log x for finite x > 0, denormals included; off by less than 2 ulp (1.6 measured). */
double math_log(double x);

/* exp x for x that is not NaN, off by less than 1 ulp (0.9 measured); exactly 0 below -700, infinity above 709. */
double math_exp(double x);

/* What they pick from by the machine; equal to the bit. */
double math__log_plain(double x);
double math__log_fma(double x);
double math__exp_plain(double x);
double math__exp_fma(double x);

#endif

/* The formulas of batch normalisation, each once, in the common subset of C and CUDA.
 *
 *     z  = (x - mean) * scale + bias [+ residual]             scale = weight * invstd, invstd = 1 / sqrt(var + eps)
 *     y  = activation(z)
 *     dx = scale * ((g - mean(g)) - xhat * mean(g * xhat))    g = dy behind the activation, xhat = (x - mean) * invstd
 *
 * The mean is kept in two numbers, mean = mean_hi + mean_lo, for x - mean_hi is exact where x is near the mean. What
 * mean_lo makes of a result is the same for all elements of a channel. It is worked out once, in float64, and an
 * element sees d = x - mean_hi alone:
 *
 *     z             = d * scale + shift                       shift   = bias - mean_lo * scale
 *     sum(g * xhat) = sum(g * (d * invstd)) - offset * sum(g) offset  = mean_lo * invstd
 *     dx            = (d * slope + (g - mean_dy)) * scale     slope   = -invstd * mean(g * xhat)
 *                                                             mean_dy = mean(g) - offset * mean(g * xhat)
 *
 * Who includes this file says what a number is:
 *     SCALAR      qualifiers of a function of float and double (`static inline` in C, a device function in CUDA)
 *     CHANNEL     the same for a function whose result is of the arithmetic type A: A is a typedef in C, a template's
 *                 parameter in CUDA (found from the pointer that the result goes to)
 *     ELEMENT     the same for a function of N: one number, or a vector of them. N: a typedef, a template's parameter;
 *                 NUMBER(a) is a as an N; choose(m, a, b) takes a where the comparison m holds, else b
 *     muladd(a, b, c)   a * b + c: rounded twice on the CPU (the default), once on a GPU. All else is never contracted.
 *     float_bits(f), bits_float(u)   a float's 32 bits as unsigned, and back
 * What is not defined leaves its part of the file out, so that a file that casts alone need not know of vectors; it
 * may be included again with more defined.
 */
#ifndef BN_FORMULAS_H
#define BN_FORMULAS_H

/* Rows of a table of coefficients: normalise reads those up to SHIFT, input_grad those up to SLOPE. */
enum { BN_MEAN_HI, BN_SCALE, BN_SHIFT, BN_MEAN_DY, BN_SLOPE, BN_INVSTD, BN_OFFSET, BN_NCOEF };

/* The activations: name, y from z, the gradient behind it from z and dy; p is the activation's parameter. The
 * gradient's z is rounded as the forward pass stored it, or is y itself: every comparison must come out the same for
 * both, in every storage type. A NaN z lets NaN and gradient pass.
 */
#define BN_ACTIVATIONS(_)                                                                \
    _(IDENTITY, z, dy)                                                                   \
    _(RELU, choose(z <= NUMBER(0), NUMBER(0), z), choose(z <= NUMBER(0), NUMBER(0), dy)) \
    _(RELU6, choose(z <= NUMBER(0), NUMBER(0), choose(z >= NUMBER(6), NUMBER(6), z)),    \
      choose((z <= NUMBER(0)) | (z >= NUMBER(6)), NUMBER(0), dy))                        \
    _(LEAKY_RELU, choose(z <= NUMBER(0), p * z, z), choose(z <= NUMBER(0), p * dy, dy))

#define BN_ACTIVATION_NUMBER(NAME, forward, gradient) BN_##NAME,
enum { BN_ACTIVATIONS(BN_ACTIVATION_NUMBER) BN_NACTIVATION };

#endif

#if !defined(muladd) && (defined(ELEMENT) || defined(CHANNEL) || defined(SCALAR))
#define muladd(a, b, c) ((a) * (b) + (c))
#endif

/* ---- per element ------------------------------------------------------------------------------------------------ */

#if defined(ELEMENT) && !defined(BN_FORMULAS_ELEMENT)
#define BN_FORMULAS_ELEMENT

/* Exact where x is near the mean. */
ELEMENT N centred(N x, N mean_hi) { return x - mean_hi; }

ELEMENT N affine(N d, N scale, N shift) { return muladd(d, scale, shift); }

/* Formed before any product with dy: dy * d could leave the range. */
ELEMENT N standardised(N d, N invstd) { return d * invstd; }

ELEMENT N activate(int activation, N z, N p)
{
    (void)p;
    switch (activation) {
#define BN_FORWARD(NAME, forward, gradient) \
    case BN_##NAME: return forward;
        BN_ACTIVATIONS(BN_FORWARD)
#undef BN_FORWARD
    }
    return z;
}

/* dy behind the activation. */
ELEMENT N activation_grad(int activation, N z, N dy, N p)
{
    (void)p;
    switch (activation) {
#define BN_GRADIENT(NAME, forward, gradient) \
    case BN_##NAME: return gradient;
        BN_ACTIVATIONS(BN_GRADIENT)
#undef BN_GRADIENT
    }
    return dy;
}

/* dx, with the means of g and g * xhat over the batch in mean_dy and slope. */
ELEMENT N batch_grad(N g, N d, N mean_dy, N slope, N scale) { return muladd(d, slope, g - mean_dy) * scale; }

/* dx where the statistics are constants. */
ELEMENT N frozen_grad(N g, N scale) { return g * scale; }

#endif

/* ---- per channel: float64 to coefficients of the arithmetic type ------------------------------------------------ */

#if defined(CHANNEL) && !defined(BN_FORMULAS_CHANNEL)
#define BN_FORMULAS_CHANNEL

/* One NaN for all, whose lower half is zero: a store to bfloat16 may rely on that. */
CHANNEL void coef_nearest(double v, A *a) { *a = v != v ? (A)bits_float(0x7fc00000u) : (A)v; }

/* A finite number stays finite: a tiny eps must not turn 0 * scale into NaN. */
CHANNEL double within_range(double v, const A *a)
{
    const double most = sizeof *a == 4 ? 0x1.fffffep127 : 0x1.fffffffffffffp1023;
    const double near = fabs(v) > most ? copysign(most, v) : v;
    return fabs(v) > 0x1.fffffffffffffp1023 ? v : near;
}

CHANNEL void coef_finite(double v, A *a) { coef_nearest(within_range(v, a), a); }

/* v to its nearest number; returns what that leaves of it, 0 where it is not finite. */
CHANNEL double coef_rest(double v, A *hi)
{
    const double most = sizeof *hi == 4 ? 0x1.fffffep127 : 0x1.fffffffffffffp1023;
    coef_nearest(v, hi);
    return fabs((double)*hi) <= most ? v - (double)*hi : 0.0;
}

/* rest * factor, within the range; 0 where the factor is not finite, so that no 0 * Inf comes of it. */
CHANNEL double correction(double rest, const A *factor)
{
    const double most = sizeof *factor == 4 ? 0x1.fffffep127 : 0x1.fffffffffffffp1023;
    return fabs((double)*factor) <= most ? within_range(rest * (double)*factor, factor) : 0.0;
}

/* Square root and division are exact to half a unit in the last place everywhere. No branches: a compiler may take
 * several channels at a time. A constant channel's mean_lo is 0, and its y exactly bias. */
CHANNEL void forward_coefs(double mean, double var, double eps, double weight, double bias, A *mean_hi, A *scale,
                           A *shift, A *invstd, A *offset)
{
    const double inverse = 1.0 / sqrt(var + eps), mean_lo = coef_rest(mean, mean_hi);
    coef_finite(weight * inverse, scale);
    coef_finite(inverse, invstd);
    coef_nearest(bias - correction(mean_lo, scale), shift);
    coef_nearest(correction(mean_lo, invstd), offset);
}

/* v - offset * w: what mean_lo makes of sums over a channel. Where it is 0, nothing, even beside an infinite sum. */
CHANNEL double less_offset(double v, const A *offset, double w) { return *offset == 0 ? v : v - (double)*offset * w; }

CHANNEL void backward_coefs(double sum_dy, double sum_dy_xhat, double count, const A *invstd, const A *offset,
                            A *mean_dy, A *slope)
{
    const double mean_dy_xhat = sum_dy_xhat / count;
    coef_nearest(less_offset(sum_dy / count, offset, mean_dy_xhat), mean_dy);
    coef_finite(-(double)*invstd * mean_dy_xhat, slope);
}

#endif

/* ---- per channel: sums to statistics, in float64 ----------------------------------------------------------------- */

#if defined(SCALAR) && !defined(BN_FORMULAS_SCALAR)
#define BN_FORMULAS_SCALAR

/* mean and M2 = sum (x - mean)^2 of n values from s = sum (x - shift) and q = sum (x - shift)^2. */
SCALAR void moments_of_sums(double n, double shift, double s, double q, double *mean, double *m2)
{
    const double d = s / n;
    *mean = shift + d;
    *m2 = muladd(-s, d, q);
}

/* Can such an M2 be trusted? Not where most digits cancelled (S^2/n > 2 M2), or squares left the range of the
 * arithmetic type: `smallest` is the mean square below which they were rounded to subnormals. */
SCALAR int moments_are_sound(double n, double s, double q, double m2, double smallest)
{
    return (m2 > 0) & (s * (s / n) <= 2 * m2) & (q >= smallest * n) & (q <= 0x1.fffffffffffffp1023);
}

/* Chan's merge: what a part of n values, whose mean lies d from the whole's, adds to the whole's M2. */
SCALAR double merged_m2(double n, double d, double m2) { return muladd(n, d * d, m2); }

/* A running statistic, after one more batch. */
SCALAR double ema(double running, double value, double momentum, double scale)
{
    return (1 - momentum) * running + momentum * (value * scale);
}

/* ---- 16-bit numbers, as their bits -------------------------------------------------------------------------------
 * Widening is exact. Narrowing rounds once, to nearest and ties to even, keeps NaN (and the top of its payload) and
 * overflows to Inf.
 */

SCALAR float bfloat16_to_float(unsigned short h) { return bits_float((unsigned)h << 16); }

SCALAR unsigned short float_to_bfloat16(float f)
{
    const unsigned u = float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (unsigned short)(u >> 16 | 0x40u);
    return (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* No step meets a float32 subnormal, so flush-to-zero modes change nothing. */
SCALAR float float16_to_float(unsigned short h)
{
    const unsigned magnitude = (h & 0x7fffu) << 13;
    unsigned u = magnitude + 0x38000000u;
    if (magnitude < 0x00800000u) u = float_bits((float)(h & 0x7fff) * 0x1p-24f); /* subnormal */
    if (magnitude >= 0x0f800000u) u |= 0x7f800000u;                              /* Inf and NaN */
    if (magnitude > 0x0f800000u) u |= 0x400000u; /* quiet, as processors' instructions do */
    return bits_float(u | (h & 0x8000u) << 16);
}

SCALAR unsigned short float_to_float16(float f)
{
    const unsigned u = float_bits(f), magnitude = u & 0x7fffffffu;
    unsigned h;
    if (magnitude > 0x7f800000u) h = 0x7e00u | magnitude >> 13; /* NaN */
    else if (magnitude >= 0x47800000u) h = 0x7c00u;             /* from 65536 on: Inf */
    else if (magnitude < 0x38800000u) h = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u; /* subnormal */
    else h = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    return (unsigned short)((h & 0x7fffu) | (u >> 16 & 0x8000u));
}

/* To float, the last bit set where anything was lost ("round to odd"): narrowing that to 16 bits rounds only once. */
SCALAR float double_to_odd(double d)
{
    const float f = (float)d;
    if ((double)f == d || !(fabs((double)f) <= 0x1.fffffep127)) return f; /* nothing lost, Inf, NaN */
    return bits_float((float_bits(f) - (fabs((double)f) > fabs(d))) | 1u);
}

#endif

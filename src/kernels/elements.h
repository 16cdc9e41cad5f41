/* What every pass is made of: where its operands are, the coefficients, and which variant of the pass it is. */
#ifndef BN_ELEMENTS_H
#define BN_ELEMENTS_H

#include <assert.h>

#include "../simd/simd.h"

#if defined(__GNUC__) && !defined(__clang__)
/* One copy for all variants: looks at flags and activation. Takes a row by value: one whose address is known
 * elsewhere would be read again after every store. */
#define RARE static __attribute__((noinline, noclone))
#else
#define RARE static __attribute__((noinline))
#endif

/* What a span has, beside the flags of kernels.h. */
enum { HAS_X = 16, HAS_DY = 32, HAS_RESIDUAL = 64, HAS_Y = 128, HAS_DRESIDUAL = 256 };

/* What is loaded: W elements, or (simd.h) the first or the second half of a pair of vectors. */
enum { NO_PAIR, FIRST_OF_PAIR, SECOND_OF_PAIR };

/* Which variant of a pass. Passes are compiled for the common ones, in which all of this is constant after inlining,
 * and once for all the others, in which it is looked at for every vector: branches that a processor predicts. */
typedef struct {
    int flags, activation;
    A parameter;
    int pair; /* known when compiled, always: NO_PAIR unless a pass says otherwise */
} variant;

INLINE variant common(int flags, int activation) { return (variant){flags, activation, 0, NO_PAIR}; }

INLINE int is_variant(variant v, int flags, int activation) { return v.flags == flags && v.activation == activation; }

INLINE vec load_as(const T *p, variant v) { return v.pair ? load_of_pair(p, v.pair == SECOND_OF_PAIR) : load(p); }

/* Addresses of the same element in all operands; those a variant lacks are never touched. */
typedef struct {
    const T *x, *dy, *residual, *y;
    T *out, *dresidual;
} row;

INLINE void move_columns(row *p, int64_t n, int flags)
{
    if (flags & HAS_X) p->x += n;
    if (flags & HAS_DY) p->dy += n;
    if (flags & HAS_Y) p->y += n;
}

/* The coefficients of W columns, or of one channel W times. What a kernel does not use costs nothing. */
typedef struct {
    vec mean_hi, scale, shift, mean_dy, slope, invstd;
} coefs;

INLINE coefs coefs_of_columns(const A *p, int64_t cs)
{
    return (coefs){load_a(p + BN_MEAN_HI * cs), load_a(p + BN_SCALE * cs), load_a(p + BN_SHIFT * cs),
                   load_a(p + BN_MEAN_DY * cs), load_a(p + BN_SLOPE * cs), load_a(p + BN_INVSTD * cs)};
}

INLINE coefs coefs_of_channel(const A *p, int64_t cs)
{
    return (coefs){splat(p[BN_MEAN_HI * cs]), splat(p[BN_SCALE * cs]), splat(p[BN_SHIFT * cs]),
                   splat(p[BN_MEAN_DY * cs]), splat(p[BN_SLOPE * cs]), splat(p[BN_INVSTD * cs])};
}

/* dy behind the activation at column j, where d = x - mean_hi. The activation's z is y where there is one, else it is
 * computed by the very operations of normalise.c and rounded as they stored it, so that both say the same. */
INLINE vec dy_behind_activation(const row *p, int64_t j, vec d, const coefs *c, variant v)
{
    const vec dy = load_as(p->dy + j, v);
    if (v.activation == BN_IDENTITY) return dy;
    vec z;
    if (v.flags & HAS_Y) z = load_as(p->y + j, v);
    else if (v.activation == BN_RELU) z = with_stored_sign(affine(d, c->scale, c->shift)); /* it asks for no more */
    else z = rounded(affine(d, c->scale, c->shift));
    return activation_grad(v.activation, z, dy, splat(v.parameter));
}

#endif

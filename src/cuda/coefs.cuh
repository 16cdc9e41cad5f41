/* The coefficients of a channel, and what the passes do with one element: the formulas of src/kernels/.
 *
 *     z  = ((x - mean_hi) - mean_lo) * scale + bias        scale = weight * invstd, invstd = 1 / sqrt(var + eps)
 *     dx = scale * ((dy - mean dy) - xhat * mean(dy * xhat))
 *
 * The mean in two floats keeps large offsets exact. Forward and backward call the same `affine`, and the compiler may
 * not contract anything by itself (--fmad=false), so the backward pass finds the forward pass's sign of z to the bit.
 */
#ifndef BN_COEFS_CUH
#define BN_COEFS_CUH

#include "storage.cuh"

enum { MEAN_HI, MEAN_LO, SCALE, BIAS, INVSTD, MEAN_DY, MEAN_DY_XHAT, NCOEF };

DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

/* A finite number stays finite: a tiny eps must not turn 0 * scale into NaN. */
DEVICE void within(double v, double &a) { a = v; }
DEVICE void within(double v, float &a)
{
    const double most = 0x1.fffffep127;
    a = (float)(isfinite(v) && fabs(v) > most ? copysign(most, v) : v);
}

/* In registers (Coefs), or in shared memory with the same names. */
template <class A> struct Coefs {
    A v[NCOEF];

    DEVICE A centred(A x) const { return (x - v[MEAN_HI]) - v[MEAN_LO]; }
    DEVICE A affine(A x) const { return fused(centred(x), v[SCALE], v[BIAS]); }
};

template <class A> DEVICE Coefs<A> coefs_of(const Args &a, long long c)
{
    Coefs<A> k;
    const double mean = element(a.mean, c, 0), var = element(a.var, c, 0), invstd = 1 / sqrt(var + a.eps);
    const A hi = (A)mean;
    k.v[MEAN_HI] = hi;
    k.v[MEAN_LO] = isfinite(hi) ? (A)(mean - (double)hi) : (A)0;
    within(element(a.weight, c, 1) * invstd, k.v[SCALE]);
    k.v[BIAS] = (A)element(a.bias, c, 0);
    within(invstd, k.v[INVSTD]);
    k.v[MEAN_DY] = (A)(element(a.sum_dy, c, 0) / a.count);
    k.v[MEAN_DY_XHAT] = (A)(element(a.sum_dy_xhat, c, 0) / a.count);
    return k;
}

/* The coefficients of a block's columns (channels last): up to BN_COLUMNS slots side by side. */
enum { BN_COLUMNS = 64 };

template <class T> struct Table {
    typename T::A v[NCOEF][T::V][BN_COLUMNS];

    DEVICE Coefs<typename T::A> at(int column, int j) const
    {
        Coefs<typename T::A> k;
#pragma unroll
        for (int i = 0; i < NCOEF; i++) k.v[i] = v[i][j][column];
        return k;
    }
};

/* g where not (z <= 0), else 0: ReLU of z for g = z, ReLU's gradient for g = dy. A NaN z lets g pass. */
template <class A> DEVICE A gate(A z, A g) { return z <= 0 ? (A)0 : g; }

#endif

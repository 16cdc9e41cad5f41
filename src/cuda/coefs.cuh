/* The coefficients of a channel (src/formulas.h), in registers or in a table in shared memory.
 *
 * Forward and backward call the same `affine`, and the compiler may not contract anything by itself (--fmad=false), so
 * the backward pass finds the forward pass's z to the bit.
 */
#ifndef BN_COEFS_CUH
#define BN_COEFS_CUH

#include "formulas.cuh"
#include "storage.cuh"

template <class A> struct Coefs {
    A v[BN_NCOEF];

    DEVICE A centre(A x) const { return centred(x, v[BN_MEAN_HI]); }
    DEVICE A xhat(A d) const { return standardised(d, v[BN_INVSTD]); } /* plus the offset */
    DEVICE A z(A d) const { return affine(d, v[BN_SCALE], v[BN_SHIFT]); }
    DEVICE A dx(A g, A d) const { return batch_grad(g, d, v[BN_MEAN_DY], v[BN_SLOPE], v[BN_SCALE]); }
    DEVICE A frozen_dx(A g) const { return frozen_grad(g, v[BN_SCALE]); }
};

template <class A> DEVICE Coefs<A> coefs_of(const Args &a, long long c)
{
    Coefs<A> k;
    forward_coefs(element(a.mean, c, 0), element(a.var, c, 0), a.eps, element(a.weight, c, 1), element(a.bias, c, 0),
                  &k.v[BN_MEAN_HI], &k.v[BN_SCALE], &k.v[BN_SHIFT], &k.v[BN_INVSTD], &k.v[BN_OFFSET]);
    backward_coefs(element(a.sum_dy, c, 0), element(a.sum_dy_xhat, c, 0), a.count, &k.v[BN_INVSTD], &k.v[BN_OFFSET],
                   &k.v[BN_MEAN_DY], &k.v[BN_SLOPE]);
    return k;
}

/* The coefficients of a panel (channels last): up to BN_COLUMNS slots side by side. */
enum { BN_COLUMNS = 64 };

template <class T> struct Table {
    typename T::A v[BN_NCOEF][T::V][BN_COLUMNS];

    DEVICE Coefs<typename T::A> at(int column, int j) const
    {
        Coefs<typename T::A> k;
#pragma unroll
        for (int i = 0; i < BN_NCOEF; i++) k.v[i] = v[i][j][column];
        return k;
    }
};

#endif

/* src/formulas.h in CUDA: what its words mean here. float16 is converted by instructions of the device (device.cuh). */
#ifndef BN_FORMULAS_CUH
#define BN_FORMULAS_CUH

#include "device.cuh"

#define SCALAR DEVICE
#define CHANNEL template <class A> DEVICE
#define ELEMENT template <class N> DEVICE
#define NUMBER(a) ((N)(a))
#define choose(m, a, b) ((m) ? (a) : (b))
#define muladd(a, b, c) fused(a, b, c)

DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }
DEVICE unsigned float_bits(float f) { return __float_as_uint(f); }
DEVICE float bits_float(unsigned u) { return __uint_as_float(u); }

#include "formulas.h"

#endif

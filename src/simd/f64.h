/* float64: stored as it is computed with. */
typedef double T;
typedef double A;
typedef int64_t I;
#define ARITH_BYTES 8

INLINE A get(const T *p) { return *p; }
INLINE void put(T *p, A a) { *p = a; }

#ifdef BN_SIMD
#include "isa.h"
#include "full.h"
#endif

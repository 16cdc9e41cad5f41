/* float32: stored as it is computed with. */
typedef float T;
typedef float A;
typedef int32_t I;
#define ARITH_BYTES 4

INLINE A get(const T *p) { return *p; }
INLINE void put(T *p, A a) { *p = a; }

#ifdef BN_SIMD
#include "isa.h"
#include "full.h"
#endif

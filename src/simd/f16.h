/* float16, as its bits. */
typedef uint16_t T;
typedef float A;
typedef int32_t I;
#define ARITH_BYTES 4

INLINE A get(const T *p) { return float16_to_float(*p); }
INLINE void put(T *p, A a) { *p = float_to_float16(a); }

#ifdef BN_SIMD
#include "isa.h"
#define LARGEST_ZERO 0x1p-25f /* what rounds to 0 */
INLINE vec widen_bits(bits b) { return float16_to_vec(b); }
INLINE bits narrow_bits(vec v) { return vec_to_float16(v); }
#include "sixteen.h"
#endif

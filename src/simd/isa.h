/* The instruction set's header, by what the compiler was told (-march).
 *
 * It defines VECTOR_BYTES, includes vector.h (everything GNU C can say for any vector), and defines
 *     stream_vec(p, v)                  a store past the caches; p is a multiple of VECTOR_BYTES
 *     store_vec_lanes(p, v, lo, hi)     lanes lo .. hi-1 of v to p + lo .. p + hi-1, no other byte
 *     widen(part)                       half of the lanes (all, for float64) to float64
 *     move_lanes(v, up)                 BN_LANES numbers in NV vectors moved `up` lanes (down where negative), zeros
 * moving in and for float32 arithmetic, on vectors `bits` of W 16-bit numbers,
 *     bits_to_ints, ints_to_bits        16-bit lanes to 32-bit lanes, and back what fits
 *     stream_bits, store_bits_lanes     as above
 *     float16_to_vec, vec_to_float16
 *     pair_first, pair_second           one half of the numbers of `pair_bits`, 2 W of them, each in the upper half of a
 *                                       32-bit lane: those that take no more than one instruction
 *     pair_join(first, second)          the lower halves of 32-bit lanes back to their places in pair_bits
 * vector.h has a portable way for each (names that begin with portable_). All give the same bits.
 *
 * A new instruction set (NEON, SVE) is a header of its own here, its line below, its flags in the top meson.build,
 * and the test of the processor in src/levels.c.
 */
#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__AVX2__)
#include "avx2.h"
#elif defined(__SSE4_1__)
#include "sse.h"
#else
#include "generic.h"
#endif

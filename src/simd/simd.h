/* Vectors of numbers of one storage type, for one instruction set: what the kernels are written in.
 *
 * The build says the storage type (BN_DTYPE_NAME) and, by compiler flags, the instruction set. A storage type is one
 * header: f32.h, f64.h, f16.h, bf16.h, named like the entry in meson.build's list. It defines
 *     T, A, I, ARITH_BYTES      the type in memory, of arithmetic, the integer of A's size, A's size
 *     get, put                  one number
 * and, where BN_SIMD is defined (reference.c does without), after including isa.h,
 *     load, load_lo, store      W numbers, WD numbers, W numbers at any address of a T
 *     stream                    W numbers past the caches, at a multiple of STORE_BYTES; the driver fences
 *     store_lanes(p, v, lo, hi) lanes lo .. hi-1 of v to p + lo .. p + hi-1, no other byte
 *     PAIRS                     1 where two vectors are better loaded and stored as a pair, else 0:
 *     load_of_pair(p, second)   W of the 2 W numbers at p, the same ones of every array; which, the type knows
 *     store_pair, stream_pair   both back to their places; stream_pair at a multiple of VECTOR_BYTES
 *     rounded                   a vector as it would come back from memory
 *     with_stored_sign          less work: something that is <= 0 where rounded() is, and NaN where that is
 */
#ifndef BN_SIMD_H
#define BN_SIMD_H

#define BN_SIMD
#include "storage.h"

#ifndef PAIRS
#define PAIRS 0
INLINE vec load_of_pair(const T *p, int second) { return load(p + second * W); }
INLINE void store_pair(T *p, vec a, vec b) { store(p, a), store(p + W, b); }
INLINE void stream_pair(T *p, vec a, vec b) { stream(p, a), stream(p + W, b); }
#endif

typedef vec N;
#define NUMBER(a) splat((A)(a))
#define choose(mask, a, b) choose_lanes(mask, a, b)
#define ELEMENT INLINE
#include "../formulas.h"

#endif

/* The storage type's header, by its name; see simd.h. */
#ifndef BN_STORAGE_H
#define BN_STORAGE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../kernels/half.h"

#ifdef __OPTIMIZE__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline /* a debugger steps into it */
#endif

#define BN_PASTE_(slot, dtype, level) bn_##slot##_##dtype##_##level
#define BN_PASTE(slot, dtype, level) BN_PASTE_(slot, dtype, level)
#define BN_NAME(slot) BN_PASTE(slot, BN_DTYPE_NAME, BN_LEVEL_NAME) /* bn_normalise_f32_x86_v3 */

#define BN_QUOTE(name) #name
#define BN_HEADER(dtype) BN_QUOTE(dtype.h)
#include BN_HEADER(BN_DTYPE_NAME)

#endif

/* The floating-point mode of a thread: rounding to nearest, subnormals as they are.
 *
 * A caller may have set another rounding mode or flush-to-zero, for its thread alone; bits would follow. Worker threads
 * inherit whatever mode the runtime started them in. So every computation of ours is put between begin and end.
 */
#ifndef BN_FENV_H
#define BN_FENV_H

#include <stdint.h>

#if defined(__x86_64__)

static inline uint64_t bn_fenv_begin(void)
{
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80); /* the value after reset: all exceptions masked, nearest, no FTZ, no DAZ */
    return mode;
}

static inline void bn_fenv_end(uint64_t mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }

#elif defined(__aarch64__)

static inline uint64_t bn_fenv_begin(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr\n\tmsr fpcr, xzr" : "=r"(mode) : : "memory"); /* 0: nearest, no FZ, no FZ16, no DN */
    return mode;
}

static inline void bn_fenv_end(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }

#else

static inline uint64_t bn_fenv_begin(void) { return 0; }
static inline void bn_fenv_end(uint64_t mode) { (void)mode; }

#endif
#endif

/* Between threads: non-temporal stores made visible; a flag to raise and read at any time; a number of all threads. */
#ifndef BN_SYNC_H
#define BN_SYNC_H

static inline void bn_store_fence(void)
{
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

static inline void bn_raise(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
static inline int bn_raised(const int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
static inline void bn_add(int *number, int step) { __atomic_fetch_add(number, step, __ATOMIC_RELAXED); }

#endif

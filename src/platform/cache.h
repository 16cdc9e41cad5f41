/* Cache sizes that plans depend on. Asked once, at import: in a virtual machine each CPUID costs microseconds. */
#ifndef BN_CACHE_H
#define BN_CACHE_H

#include <stdint.h>

/* Half of the last-level cache, kept within what is believable: virtual machines report 0, or the sum of all slices. */
int64_t bn_cache_half(void);

#endif

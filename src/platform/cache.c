#include "platform/cache.h"

#include <unistd.h>

#define LEAST (8 << 20)
#define MOST (16 << 20) /* shared with others, or many slices that one core does not reach */

int64_t bn_cache_half(void)
{
    int64_t size = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    size = sysconf(_SC_LEVEL3_CACHE_SIZE) / 2;
#endif
    return size < LEAST ? LEAST : size > MOST ? MOST : size;
}

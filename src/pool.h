/* Memory for results: large blocks are kept when they come back, because writing fresh pages costs more than a kernel.
 *
 * malloc-like functions that NumPy calls for the arrays made under its handler (NEP 49), so such an array owns its memory
 * as any other does. Safe from any thread, and across fork.
 *
 * How much is kept: by default twice the largest block lent so far, and BN_POOL_MOST at most; with a limit, what the
 * blocks that are lent leave of it. No thread watches over it. Who takes or gives back a block also gives to the system
 * what has been kept for bnkern_pool_patience seconds, and an allocation that fails gives back all and tries again. In
 * a process that has gone idle the system may take the pages of kept blocks when memory is short (MADV_FREE on Linux):
 * they count as resident until then.
 */
#ifndef BN_POOL_H
#define BN_POOL_H

#include <stddef.h>
#include <stdint.h>

#define BN_POOL_LEAST (1 << 20)  /* smaller blocks are never kept */
#define BN_POOL_MOST (256 << 20) /* bytes kept at most, unless a limit is set */

enum { BN_POOL_UNLIMITED = 0, BN_POOL_OFF = -1, BN_POOL_DEFAULT = -2 }; /* limits that are no number of bytes */

typedef struct bn_pool_facts {
    int64_t used, free; /* bytes lent, bytes kept */
    int64_t limit;      /* bytes that the two may be, or one of the above */
    int64_t free_blocks;
    int64_t largest; /* bytes of the largest block lent so far */
} bn_pool_facts;

void *bn_pool_malloc(void *context, size_t bytes);
void *bn_pool_calloc(void *context, size_t count, size_t bytes);
void *bn_pool_realloc(void *context, void *p, size_t bytes);
void bn_pool_free(void *context, void *p, size_t bytes);

bn_pool_facts bn_pool_state(void);
void bn_pool_set_limit(int64_t bytes); /* gives back what is kept beyond it */
void bn_pool_trim(int64_t keep);       /* gives back kept blocks, those kept longest first, down to `keep` bytes */
void bn_pool_begin(void);              /* once */

#endif

/* Memory for results: large blocks are kept when they come back, because writing fresh pages costs more than a kernel.
 *
 * malloc-like functions that NumPy calls for the arrays made under its handler (NEP 49), so such an array owns its memory
 * as any other does. Safe from any thread, and across fork.
 */
#ifndef BN_POOL_H
#define BN_POOL_H

#include <stddef.h>
#include <stdint.h>

#define BN_POOL_LEAST (1 << 20) /* smaller blocks are never kept */

typedef struct bn_pool_facts {
    int64_t used, free, limit; /* bytes lent, bytes kept, bytes that the two may be; limit 0: none */
    int64_t free_blocks;
} bn_pool_facts;

void *bn_pool_malloc(void *context, size_t bytes);
void *bn_pool_calloc(void *context, size_t count, size_t bytes);
void *bn_pool_realloc(void *context, void *p, size_t bytes);
void bn_pool_free(void *context, void *p, size_t bytes);

bn_pool_facts bn_pool_state(void);
void bn_pool_set_limit(int64_t bytes); /* gives back what is kept beyond it; negative: keep nothing, ever */
void bn_pool_trim(int64_t keep);       /* gives back kept blocks, those kept longest first, down to `keep` bytes */
void bn_pool_begin(void);              /* once */

#endif

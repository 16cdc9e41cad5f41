#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

/* What lies before a block's data. 64 bytes, so that the data begin on a cache line. */
struct block {
    size_t capacity; /* of the data */
    struct block *next; /* of those kept, the last kept first */
    char padding[64 - sizeof(size_t) - sizeof(void *)];
};

/* By this name threadpoolctl tells this library from others with the same file name (bnkern/_threadpoolctl.py). */
__attribute__((visibility("default"))) extern const char bnkern_native[];
const char bnkern_native[] = "bnkern";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *kept;
static bn_pool_facts facts = {.limit = -1};

/* Sizes in steps of an eighth of a power of two, so that a block fits calls of about its size too. */
static size_t rounded(size_t bytes)
{
    size_t step = 64;
    while (step < bytes / 16) step *= 2;
    return (bytes + step - 1) / step * step;
}

static struct block *fresh(size_t capacity)
{
    void *memory;
    const size_t bytes = capacity + sizeof(struct block);
    if (bytes < capacity || posix_memalign(&memory, bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64, bytes) != 0) return NULL;
#if defined(__linux__)
    if (bytes >= 2 * HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE); /* fewer page faults; no matter if refused */
#endif
    struct block *b = memory;
    b->capacity = capacity;
    return b;
}

/* Takes the blocks off the list until `keep` bytes are kept, the longest kept first; the caller frees them, unlocked. */
static struct block *surplus(int64_t keep)
{
    struct block **end = &kept, *off;
    int64_t bytes = 0;
    while (*end && bytes + (int64_t)(*end)->capacity <= keep) bytes += (int64_t)(*end)->capacity, end = &(*end)->next;
    off = *end;
    *end = NULL;
    for (struct block *b = off; b; b = b->next) facts.free -= (int64_t)b->capacity, facts.free_blocks--;
    return off;
}

static void give_back(struct block *b)
{
    while (b) {
        struct block *next = b->next;
        free(b);
        b = next;
    }
}

static struct block *take_kept(size_t capacity)
{
    for (struct block **at = &kept; *at; at = &(*at)->next)
        if ((*at)->capacity == capacity) {
            struct block *b = *at;
            *at = b->next;
            facts.free -= (int64_t)capacity, facts.free_blocks--;
            return b;
        }
    return NULL;
}

void *bn_pool_malloc(void *context, size_t bytes)
{
    (void)context;
    if (bytes > (size_t)1 << 62) return NULL;
    const size_t capacity = rounded(bytes);
    pthread_mutex_lock(&lock);
    struct block *b = capacity >= BN_POOL_LEAST ? take_kept(capacity) : NULL;
    facts.used += (int64_t)capacity;
    pthread_mutex_unlock(&lock);
    if (!b) b = fresh(capacity);
    if (!b) { /* what is kept for later may be what lacks now */
        bn_pool_trim(0);
        b = fresh(capacity);
    }
    if (b) return b + 1;
    pthread_mutex_lock(&lock);
    facts.used -= (int64_t)capacity;
    pthread_mutex_unlock(&lock);
    return NULL;
}

void *bn_pool_calloc(void *context, size_t count, size_t bytes)
{
    if (bytes && count > ((size_t)1 << 62) / bytes) return NULL;
    void *p = bn_pool_malloc(context, count * bytes);
    return p ? memset(p, 0, count * bytes) : NULL;
}

void *bn_pool_realloc(void *context, void *p, size_t bytes)
{
    if (!p) return bn_pool_malloc(context, bytes);
    if (bytes > (size_t)1 << 62) return NULL;
    const size_t capacity = ((struct block *)p - 1)->capacity;
    if (rounded(bytes) == capacity) return p;
    void *to = bn_pool_malloc(context, bytes);
    if (!to) return NULL;
    memcpy(to, p, bytes < capacity ? bytes : capacity);
    bn_pool_free(context, p, capacity);
    return to;
}

void bn_pool_free(void *context, void *p, size_t bytes)
{
    (void)context, (void)bytes;
    if (!p) return;
    struct block *b = (struct block *)p - 1, *off = NULL;
    pthread_mutex_lock(&lock);
    facts.used -= (int64_t)b->capacity;
    if (b->capacity >= BN_POOL_LEAST && facts.limit >= 0) {
        b->next = kept, kept = b;
        facts.free += (int64_t)b->capacity, facts.free_blocks++;
        if (facts.limit > 0 && facts.used + facts.free > facts.limit)
            off = surplus(facts.limit > facts.used ? facts.limit - facts.used : 0);
    } else {
        b->next = NULL, off = b;
    }
    pthread_mutex_unlock(&lock);
    give_back(off);
}

bn_pool_facts bn_pool_state(void)
{
    pthread_mutex_lock(&lock);
    bn_pool_facts copy = facts;
    pthread_mutex_unlock(&lock);
    return copy;
}

void bn_pool_trim(int64_t keep)
{
    pthread_mutex_lock(&lock);
    struct block *off = surplus(keep);
    pthread_mutex_unlock(&lock);
    give_back(off);
}

void bn_pool_set_limit(int64_t bytes)
{
    pthread_mutex_lock(&lock);
    facts.limit = bytes;
    const int64_t used = facts.used;
    pthread_mutex_unlock(&lock);
    if (bytes != 0) bn_pool_trim(bytes > used ? bytes - used : 0);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
void bn_pool_begin(void) { pthread_atfork(before_fork, after_fork, after_fork); }

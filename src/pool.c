#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__linux__)
#include <sys/mman.h>
#define COARSE_CLOCK CLOCK_MONOTONIC_COARSE /* a few nanoseconds */
#else
#define COARSE_CLOCK CLOCK_MONOTONIC
#endif

#define PAGE ((size_t)4096)
#define HUGE_PAGE ((size_t)2 << 20)

/* What lies before a block's data. 64 bytes, so that the data begin on a cache line; those of large blocks begin on a
 * page. (Loads a little behind the stores, modulo 4096, wait for them in vain: dx 64 bytes into a page and x 16, as
 * NumPy has it, made the backward pass 1.4 times as long on Zen 4.)
 */
struct block {
    size_t capacity;    /* of the data */
    struct block *next; /* of those kept, the last kept first */
    int64_t since;      /* when it was kept, in seconds */
    char padding[64 - sizeof(size_t) - sizeof(void *) - sizeof(int64_t)];
};

/* Seconds after which a kept block goes. Exported: tests set it, and by it threadpoolctl tells this library from others
 * of the same file name (bnkern/_threadpoolctl.py).
 */
__attribute__((visibility("default"))) extern int64_t bnkern_pool_patience;
int64_t bnkern_pool_patience = 10;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *kept;
static bn_pool_facts facts = {.limit = BN_POOL_OFF};

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(COARSE_CLOCK, &t);
    return t.tv_sec;
}

/* Bytes that may be kept. */
static int64_t room(void)
{
    const int64_t most = 2 * facts.largest;
    switch (facts.limit) {
    case BN_POOL_OFF: return 0;
    case BN_POOL_UNLIMITED: return INT64_MAX;
    case BN_POOL_DEFAULT: return most < BN_POOL_MOST ? most : BN_POOL_MOST;
    default: return facts.limit > facts.used ? facts.limit - facts.used : 0;
    }
}

/* Sizes in steps of an eighth of a power of two, so that a block fits calls of about its size too. */
static size_t rounded(size_t bytes)
{
    size_t step = 64;
    while (step < bytes / 16) step *= 2;
    return (bytes + step - 1) / step * step;
}

/* Bytes from the beginning of a block's memory to its data. */
static size_t lead(size_t capacity) { return capacity >= BN_POOL_LEAST ? PAGE : sizeof(struct block); }

static struct block *fresh(size_t capacity)
{
    void *memory;
    const size_t bytes = capacity + lead(capacity);
    if (posix_memalign(&memory, bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : lead(capacity), bytes) != 0) return NULL;
#if defined(__linux__)
    if (bytes >= 2 * HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE); /* fewer page faults; no matter if refused */
#endif
    struct block *b = (struct block *)((char *)memory + lead(capacity)) - 1;
    b->capacity = capacity;
    return b;
}

/* Takes off the list what is beyond `keep` bytes or was kept before `since`, the longest kept first; the caller frees
 * it, unlocked. The list is in the order of time, so both are its end.
 */
static struct block *surplus(int64_t keep, int64_t since)
{
    struct block **end = &kept, *off;
    int64_t bytes = 0;
    while (*end && (*end)->since >= since && (int64_t)(*end)->capacity <= keep - bytes)
        bytes += (int64_t)(*end)->capacity, end = &(*end)->next;
    off = *end;
    *end = NULL;
    for (struct block *b = off; b; b = b->next) facts.free -= (int64_t)b->capacity, facts.free_blocks--;
    return off;
}

/* What has been kept for too long. */
static struct block *stale(void) { return kept ? surplus(INT64_MAX, now() - bnkern_pool_patience) : NULL; }

/* Lets the system take the pages when memory is short; without that they stay as they are. Whole huge pages alone, so
 * that none is split; the first has the block's head.
 */
static void lend_pages(struct block *b)
{
#if defined(MADV_FREE)
    const uintptr_t page = HUGE_PAGE, first = ((uintptr_t)b + page) / page * page;
    const uintptr_t end = ((uintptr_t)(b + 1) + b->capacity) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_FREE);
#else
    (void)b;
#endif
}

static void release(struct block *b) { free((char *)(b + 1) - lead(b->capacity)); }

static void give_back(struct block *b)
{
    while (b) {
        struct block *next = b->next;
        release(b);
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
    struct block *b = capacity >= BN_POOL_LEAST ? take_kept(capacity) : NULL, *off = stale();
    facts.used += (int64_t)capacity;
    pthread_mutex_unlock(&lock);
    give_back(off);
    if (!b) b = fresh(capacity);
    if (!b) { /* what is kept for later may be what lacks now */
        bn_pool_trim(0);
        b = fresh(capacity);
    }
    pthread_mutex_lock(&lock);
    if (!b) facts.used -= (int64_t)capacity;
    else if ((int64_t)capacity > facts.largest) facts.largest = (int64_t)capacity;
    pthread_mutex_unlock(&lock);
    return b ? b + 1 : NULL;
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
    struct block *b = (struct block *)p - 1, *off;
    const int64_t capacity = (int64_t)b->capacity;
    pthread_mutex_lock(&lock);
    facts.used -= capacity;
    const int keep = capacity >= BN_POOL_LEAST && capacity <= room();
    pthread_mutex_unlock(&lock);
    if (keep) lend_pages(b);
    else release(b);
    pthread_mutex_lock(&lock);
    if (keep) {
        b->since = now();
        b->next = kept, kept = b;
        facts.free += capacity, facts.free_blocks++;
    }
    off = surplus(room(), now() - bnkern_pool_patience);
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
    struct block *off = surplus(keep, INT64_MIN);
    pthread_mutex_unlock(&lock);
    give_back(off);
}

void bn_pool_set_limit(int64_t bytes)
{
    pthread_mutex_lock(&lock);
    facts.limit = bytes;
    struct block *off = surplus(room(), INT64_MIN);
    pthread_mutex_unlock(&lock);
    give_back(off);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
void bn_pool_begin(void) { pthread_atfork(before_fork, after_fork, after_fork); }

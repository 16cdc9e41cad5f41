#include "view.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int bn_collapse(bn_shape *shape, int ndim, const int64_t *sizes, int axis, int itemsize, bn_operand *const *operands,
                const int64_t *const *strides, int count)
{
    int nd = 0;
    shape->itemsize = itemsize;
    shape->channels = sizes[axis];
    shape->count = 1;
    for (int k = 0; k < count; k++) operands[k]->cstride = strides[k][axis];
    for (int d = 0; d < ndim; d++) {
        if (d == axis || sizes[d] == 1) continue;
        shape->count *= sizes[d];
        int joins = nd > 0;
        for (int k = 0; k < count && joins; k++) joins = operands[k]->stride[nd - 1] == strides[k][d] * sizes[d];
        if (!joins) {
            if (nd == BN_MAXDIM) return 0;
            shape->size[nd++] = 1;
        }
        shape->size[nd - 1] *= sizes[d];
        for (int k = 0; k < count; k++) operands[k]->stride[nd - 1] = strides[k][d];
    }
    if (nd == 0) { /* one element for each channel */
        shape->size[nd++] = 1;
        for (int k = 0; k < count; k++) operands[k]->stride[0] = itemsize;
    }
    shape->nd = nd;
    return 1;
}

int bn_layout(const bn_shape *shape, bn_operand *const *operands, int count)
{
    int rows = 1, channels = 1;
    for (int k = 0; k < count; k++) {
        if (operands[k]->cstride % shape->itemsize) return BN_NONE; /* a field of a structured array */
        for (int d = 0; d < shape->nd; d++)
            if (operands[k]->stride[d] % shape->itemsize) return BN_NONE;
        rows &= operands[k]->stride[shape->nd - 1] == shape->itemsize;
        channels &= operands[k]->cstride == shape->itemsize && shape->channels > 1;
    }
    if (channels && shape->count == 1) return BN_CHANNELS_LAST;
    return rows ? BN_CHANNELS_FIRST : channels ? BN_CHANNELS_LAST : BN_NONE;
}

char *bn_at(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i)
{
    char *p = operand->data + c * operand->cstride;
    for (int d = shape->nd - 1; d > 0; d--) {
        p += i % shape->size[d] * operand->stride[d];
        i /= shape->size[d];
    }
    return p + i * operand->stride[0];
}

int64_t bn_run_length(const bn_shape *shape, int64_t i, int64_t most)
{
    int64_t row = shape->size[shape->nd - 1], left = row - i % row;
    return left < most ? left : most;
}

void bn_gather(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i, int64_t n, char *buffer)
{
    for (int64_t end = i + n, take; i < end; i += take, buffer += take * shape->itemsize) {
        take = bn_run_length(shape, i, end - i);
        memcpy(buffer, bn_at(shape, operand, c, i), take * shape->itemsize);
    }
}

int64_t bn_cache_bytes(void)
{
    long size = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (size < 256 << 10) size = 256 << 10; /* virtual machines report 0, or anything */
    if (size > 2 << 20) size = 2 << 20;
    return size;
}

int64_t bn_stream_bytes(void)
{
    long size = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    size = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    size /= 2;
    if (size < 8 << 20) size = 8 << 20;
    if (size > 16 << 20) size = 16 << 20; /* shared with others, or many slices that one core does not reach */
    return size;
}

unsigned bn_fenv_begin(void)
{
#if defined(__x86_64__)
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80);
    return mode;
#else
    return 0;
#endif
}

void bn_fenv_end(unsigned mode)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#else
    (void)mode;
#endif
}

void bn_store_fence(void)
{
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

void bn_raise(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
int bn_raised(const int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }

double bn_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* libgomp's threads do not survive a fork and it waits for them for ever, so a child runs serially. */
static int forked;
static void in_child(void) { forked = 1; }
int bn_forked(void) { return forked; }
void bn_watch_fork(void) { pthread_atfork(NULL, NULL, in_child); }

/* The limits that the other kernels are measured against: a streaming copy (out = x) and a triad (out = x + dy).
 *
 * `width` elements; the output is written with non-temporal stores, as a kernel would that never reads it again.
 */
#include "../simd/simd.h"

static int64_t aligned_at(const bn_span *a)
{
    int64_t head = (int64_t)(-(uintptr_t)a->out % STORE_BYTES / sizeof(T));
    return head < a->width ? head : a->width;
}

void BN_NAME(stream_copy)(const bn_span *a)
{
    const T *x = a->x;
    T *out = a->out;
    int64_t j = aligned_at(a);
    memcpy(out, x, j * sizeof(T));
    for (; j + W <= a->width; j += W) stream(out + j, load(x + j));
    memcpy(out + j, x + j, (a->width - j) * sizeof(T));
}

void BN_NAME(stream_triad)(const bn_span *a)
{
    const T *x = a->x, *dy = a->dy;
    T *out = a->out;
    int64_t j = aligned_at(a);
    if (a->width < W) {
        for (j = 0; j < a->width; j++) put(out + j, get(x + j) + get(dy + j));
        return;
    }
    store(out, load(x) + load(dy));
    for (; j + W <= a->width; j += W) stream(out + j, load(x + j) + load(dy + j));
    j = a->width - W;
    store(out + j, load(x + j) + load(dy + j));
}

#include "c_api/tensor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CPU = 1, FLOAT = 2, BFLOAT = 4 }; /* DLDeviceType, DLDataTypeCode */

static const int64_t FAR = (int64_t)1 << 60; /* no array reaches as far, and sums of a few of these do not overflow */

int bn_refuse(const bn_words *words, int status, const char *format, ...)
{
    va_list arguments;
    if (!words->text || !words->size) return status;
    va_start(arguments, format);
    vsnprintf(words->text, words->size, format, arguments);
    va_end(arguments);
    return status;
}

const char *bn_type_name(int type)
{
    switch (type) {
    case BN_F32: return "float32";
    case BN_F64: return "float64";
    case BN_F16: return "float16";
    default: return "bfloat16";
    }
}

/* ---- one array -------------------------------------------------------------------------------------------------- */

static int type_of(const bnkern_tensor *given, int *type)
{
    if (given->dtype.lanes != 1) return 0;
    if (given->dtype.code == BFLOAT) *type = BN_BF16;
    else if (given->dtype.bits == 64) *type = BN_F64;
    else if (given->dtype.bits == 32) *type = BN_F32;
    else *type = BN_F16;
    if (given->dtype.code == BFLOAT) return given->dtype.bits == 16;
    return given->dtype.code == FLOAT &&
           (given->dtype.bits == 64 || given->dtype.bits == 32 || given->dtype.bits == 16);
}

/* The number of elements; -1: a length is negative or there are more bytes than addresses. */
static int64_t size_of(const bnkern_tensor *given, int itemsize)
{
    int64_t size = 1;
    for (int d = 0; d < given->ndim; d++) {
        if (given->shape[d] < 0) return -1;
        if (given->shape[d] == 0) size = 0;
    }
    for (int d = 0; d < given->ndim && size; d++) {
        if (size > FAR / itemsize / given->shape[d]) return -1;
        size *= given->shape[d];
    }
    return size;
}

void bn_tensor_c_order(bn_tensor *t)
{
    int64_t step = t->itemsize;
    for (int d = t->ndim - 1; d >= 0; d--) {
        t->strides[d] = t->size ? step : 0;
        if (t->size) step *= t->shape[d];
    }
}

/* Strides in bytes; 0 where the array reaches further than an array can. */
static int step(const bnkern_tensor *given, bn_tensor *t)
{
    int64_t reach = t->itemsize;
    uint64_t begin, end;
    bn_tensor_c_order(t);
    if (!given->strides || !t->size) return 1;
    for (int d = 0; d < t->ndim; d++) {
        int64_t stride = given->strides[d];
        t->strides[d] = 0; /* where there is one element, a stride means nothing */
        if (t->shape[d] == 1) {
            if (stride > -FAR / 8 && stride < FAR / 8) t->strides[d] = stride * t->itemsize;
            continue;
        }
        if (stride <= -FAR / 8 || stride >= FAR / 8) return 0;
        t->strides[d] = stride * t->itemsize;
        stride = t->strides[d] < 0 ? -t->strides[d] : t->strides[d];
        if (stride && t->shape[d] - 1 > (FAR - reach) / stride) return 0;
        reach += stride * (t->shape[d] - 1);
    }
    bn_tensor_span(t, &begin, &end);
    return begin < end && begin <= (uint64_t)(uintptr_t)t->data;
}

int bn_tensor_of(const bnkern_tensor *given, bn_tensor *t, const bn_words *words)
{
    if (given->device.device_type != CPU)
        return bn_refuse(words, BNKERN_BAD_DEVICE, "%s: expected memory of the CPU (device_type 1), got device_type %d",
                         t->name, (int)given->device.device_type);
    if (!type_of(given, &t->type))
        return bn_refuse(words, BNKERN_BAD_DTYPE,
                         "%s: expected float32, float64, float16 or bfloat16, got code %d, bits %d, lanes %d", t->name,
                         given->dtype.code, given->dtype.bits, given->dtype.lanes);
    t->itemsize = t->type == BN_F64 ? 8 : t->type == BN_F32 ? 4 : 2;
    if (given->ndim < 0 || given->ndim > BN_MOSTAXES)
        return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected at most %d axes, got ndim %d", t->name, BN_MOSTAXES,
                         (int)given->ndim);
    t->ndim = given->ndim;
    if (t->ndim && !given->shape) return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected a shape, got NULL", t->name);
    t->size = size_of(given, t->itemsize);
    if (t->size < 0)
        return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected lengths of an array that can exist", t->name);
    for (int d = 0; d < t->ndim; d++) t->shape[d] = given->shape[d];
    t->data = NULL;
    if (t->size) {
        if (!given->data) return bn_refuse(words, BNKERN_MISSING, "%s: expected memory, got data NULL", t->name);
        if (given->byte_offset > (uint64_t)FAR ||
            (uint64_t)(uintptr_t)given->data + given->byte_offset >= UINT64_MAX / 2)
            return bn_refuse(words, BNKERN_BAD_STRIDES, "%s: byte_offset %" PRIu64 " leaves the range of addresses",
                             t->name, given->byte_offset);
        t->data = (char *)given->data + given->byte_offset;
    }
    if (!step(given, t))
        return bn_refuse(words, BNKERN_BAD_STRIDES, "%s: strides leave the range of addresses", t->name);
    return BNKERN_OK;
}

int bn_tensor_aligned(const bn_tensor *t) { return (uintptr_t)t->data % t->itemsize == 0; }

void bn_tensor_span(const bn_tensor *t, uint64_t *begin, uint64_t *end)
{
    *begin = *end = (uint64_t)(uintptr_t)t->data;
    if (!t->size) return;
    for (int d = 0; d < t->ndim; d++) {
        const int64_t reach = t->strides[d] * (t->shape[d] - 1);
        if (reach < 0) *begin += (uint64_t)reach;
        else *end += (uint64_t)reach;
    }
    *end += t->itemsize;
}

/* ---- two arrays ------------------------------------------------------------------------------------------------- */

/* A sum of terms of which each is step * 0 .. step * most. */
typedef struct {
    int64_t step, most;
} term;

/* Puts one more term among those sorted by falling step; equal steps are one term. */
static int insert(term *terms, int n, int64_t step, int64_t most)
{
    int at = n;
    if (most == 0 || step == 0) return n;
    for (int k = 0; k < n; k++)
        if (terms[k].step == step) {
            terms[k].most += most;
            return n;
        }
    for (; at > 0 && terms[at - 1].step < step; at--) terms[at] = terms[at - 1];
    terms[at] = (term){step, most};
    return n + 1;
}

int bn_tensor_folded(const bn_tensor *t)
{
    term terms[BN_MOSTAXES]; /* sorted by stride, an axis must step over all finer ones */
    int n = 0;
    int64_t extent = t->itemsize;
    if (!t->size) return 0;
    for (int d = 0; d < t->ndim; d++) {
        const int64_t step = t->strides[d] < 0 ? -t->strides[d] : t->strides[d];
        if (t->shape[d] > 1 && step == 0) return 1;
        for (int k = 0; k < n && t->shape[d] > 1; k++)
            if (terms[k].step == step) return 1;
        n = insert(terms, n, step, t->shape[d] - 1);
    }
    for (int k = n - 1; k >= 0; k--) {
        if (terms[k].step < extent) return 1;
        extent += terms[k].step * terms[k].most;
    }
    return 0;
}

int bn_tensor_same(const bn_tensor *a, const bn_tensor *b)
{
    if (a->data != b->data || a->type != b->type) return 0;
    for (int d = 0; d < a->ndim; d++)
        if (a->shape[d] > 1 && a->strides[d] != b->strides[d]) return 0;
    return 1;
}

/* Is there a sum of the terms k .. n-1 that gives `rest`? `most[k]`: the largest sum. Out of patience: yes. */
static int reaches(const term *terms, const int64_t *most, int n, int k, int64_t rest, int *patience)
{
    int64_t low, high;
    if (rest < 0 || rest > most[k]) return 0;
    if (rest == 0 || --*patience < 0) return 1;
    low = rest > most[k + 1] ? (rest - most[k + 1] + terms[k].step - 1) / terms[k].step : 0;
    high = rest / terms[k].step < terms[k].most ? rest / terms[k].step : terms[k].most;
    for (int64_t i = high; i >= low; i--)
        if (reaches(terms, most, n, k + 1, rest - i * terms[k].step, patience)) return 1;
    return 0;
}

int bn_tensor_shares(const bn_tensor *a, const bn_tensor *b)
{
    term terms[2 * BN_MOSTAXES + 1];
    int64_t most[2 * BN_MOSTAXES + 2];
    int n = 0, patience = 10000;
    uint64_t begin, end, other_begin, other_end;
    if (!a->size || !b->size) return 0;
    bn_tensor_span(a, &begin, &end);
    bn_tensor_span(b, &other_begin, &other_end);
    if (end <= other_begin || other_end <= begin) return 0;
    /* A byte of both: the way from a's first byte up to it, and from there on to the end of b's bytes, where each
     * stride is taken a number of times: together the distance from a's first byte to b's last. */
    for (int d = 0; d < a->ndim; d++)
        n = insert(terms, n, a->strides[d] < 0 ? -a->strides[d] : a->strides[d], a->shape[d] - 1);
    for (int d = 0; d < b->ndim; d++)
        n = insert(terms, n, b->strides[d] < 0 ? -b->strides[d] : b->strides[d], b->shape[d] - 1);
    n = insert(terms, n, 1, a->itemsize + b->itemsize - 2);
    most[n] = 0;
    for (int k = n - 1; k >= 0; k--) most[k] = most[k + 1] + terms[k].step * terms[k].most;
    return reaches(terms, most, n, 0, (int64_t)(other_end - 1 - begin), &patience);
}

/* ---- copies ----------------------------------------------------------------------------------------------------- */

static void copy_row(char *to, int64_t step, const char *from, int64_t from_step, int64_t n, int itemsize)
{
    if (step == itemsize && from_step == itemsize) memcpy(to, from, n * itemsize);
    else
        for (int64_t i = 0; i < n; i++) memcpy(to + i * step, from + i * from_step, itemsize);
}

void bn_tensor_copy(const bn_tensor *to, const bn_tensor *from)
{
    int64_t at[BN_MOSTAXES] = {0};
    const int last = to->ndim - 1;
    char *p = to->data;
    const char *q = from->data;
    if (!to->size) return;
    for (;;) {
        int d = last - 1;
        copy_row(p, to->strides[last], q, from->strides[last], to->shape[last], to->itemsize);
        for (; d >= 0; d--) {
            p += to->strides[d];
            q += from->strides[d];
            if (++at[d] < to->shape[d]) break;
            p -= to->strides[d] * at[d];
            q -= from->strides[d] * at[d];
            at[d] = 0;
        }
        if (d < 0) return;
    }
}

#include "driver/vector.h"

#include <string.h>

#include "kernels/half.h"

static double identity(double value) { return value; }
static double from_float(float value) { return (double)value; }
static double from_f16(uint16_t bits) { return (double)bn_from_f16(bits); }
static double from_bf16(uint16_t bits) { return (double)bn_from_bf16(bits); }
static float to_float(double value) { return (float)value; }
static uint16_t to_f16(double value) { return bn_to_f16(bn_to_odd(value)); }
static uint16_t to_bf16(double value) { return bn_to_bf16(bn_to_odd(value)); }

/* memcpy, because user memory may be misaligned; a stride known when compiling makes gapless loops vector code. */
#define READ(T, widen, stride)                          \
    for (int64_t k = 0; k < n; k++) {                   \
        T value;                                        \
        memcpy(&value, p + k * (stride), sizeof value); \
        to[k] = widen(value);                           \
    }
#define WRITE(T, narrow, stride)                        \
    for (int64_t k = 0; k < n; k++) {                   \
        const T value = narrow(from[k]);                \
        memcpy(p + k * (stride), &value, sizeof value); \
    }
#define EACH(LOOP, T, convert)                                                \
    if (v->stride == (int64_t)sizeof(T)) LOOP(T, convert, (int64_t)sizeof(T)) \
    else LOOP(T, convert, v->stride)                                          \
    return

void bn_vector_read(const bn_vector *v, int64_t c, int64_t n, double missing, double *restrict to)
{
    const char *restrict p = v->data;
    if (!p) {
        for (int64_t k = 0; k < n; k++) to[k] = missing;
        return;
    }
    p += c * v->stride;
    switch (v->type) {
    case BN_F64: EACH(READ, double, identity);
    case BN_F32: EACH(READ, float, from_float);
    case BN_F16: EACH(READ, uint16_t, from_f16);
    case BN_BF16: EACH(READ, uint16_t, from_bf16);
    }
}

void bn_vector_write(const bn_vector *v, int64_t c, int64_t n, const double *restrict from)
{
    char *restrict p = v->data + c * v->stride;
    switch (v->type) {
    case BN_F64: EACH(WRITE, double, identity);
    case BN_F32: EACH(WRITE, float, to_float);
    case BN_F16: EACH(WRITE, uint16_t, to_f16);
    case BN_BF16: EACH(WRITE, uint16_t, to_bf16);
    }
}

void bn_ema(double *restrict running, const double *restrict value, int64_t n, double momentum, double scale)
{
    const double kept = 1.0 - momentum;
    for (int64_t k = 0; k < n; k++) running[k] = kept * running[k] + momentum * (value[k] * scale);
}

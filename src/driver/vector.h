/* One number for each channel, as the user gave it: any supported type, any stride, any alignment. */
#ifndef BN_VECTOR_H
#define BN_VECTOR_H

#include <stdint.h>

#include "dtypes.h"

typedef struct bn_vector {
    char *data;     /* NULL: not given */
    int64_t stride; /* bytes */
    int type;
} bn_vector;

/* Entries c .. c+n-1 as float64; `missing` where there is no vector. */
void bn_vector_read(const bn_vector *v, int64_t c, int64_t n, double missing, double *to);

/* Sets entries c .. c+n-1, each rounded once. */
void bn_vector_write(const bn_vector *v, int64_t c, int64_t n, const double *from);

/* running = (1 - momentum) * running + momentum * (value * scale), n numbers. */
void bn_ema(double *running, const double *value, int64_t n, double momentum, double scale);

#endif

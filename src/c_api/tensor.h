/* One array of a compiled caller: checked, and as bytes. No Python, no driver. */
#ifndef BN_TENSOR_H
#define BN_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "bnkern.h"
#include "dtypes.h"

#define BN_MOSTAXES 64

typedef struct bn_tensor {
    const char *name;
    char *data; /* of the first element; NULL: not there (or no elements) */
    int type, itemsize, ndim;
    int64_t size; /* elements */
    int64_t shape[BN_MOSTAXES];
    int64_t strides[BN_MOSTAXES]; /* bytes; all 0 without elements */
} bn_tensor;

/* Where the words of an error go, and its status. */
typedef struct bn_words {
    char *text;
    size_t size;
} bn_words;

/* Puts the sentence down and returns `status`. */
int bn_refuse(const bn_words *words, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Checks everything that one array alone can have wrong; t->name is set. */
int bn_tensor_of(const bnkern_tensor *given, bn_tensor *t, const bn_words *words);

/* A written array: does each element have a place of its own? */
int bn_tensor_folded(const bn_tensor *t);

/* Every element of `a` lies exactly where its partner in `b` does; both have one shape and type. */
int bn_tensor_same(const bn_tensor *a, const bn_tensor *b);

/* Have the two a byte in common? What is too hard to tell counts as yes. */
int bn_tensor_shares(const bn_tensor *a, const bn_tensor *b);

/* Can a kernel read it as it lies? */
int bn_tensor_aligned(const bn_tensor *t);

/* Strides of C order. */
void bn_tensor_c_order(bn_tensor *t);

/* The first byte, and the first behind the last one. */
void bn_tensor_span(const bn_tensor *t, uint64_t *begin, uint64_t *end);

/* to = from, element by element; of one shape and type, apart. */
void bn_tensor_copy(const bn_tensor *to, const bn_tensor *from);

const char *bn_type_name(int type);

#endif

/* The checks of the C API under the sanitisers: random calls, most of them wrong in some field, none of which may read or
 * reckon where it must not. Of what is accepted the copies are made and brought back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "c_api/request.h"

enum { ROUNDS = 200000, MEMORY = 4096 };

static uint64_t state = 88172645463325252u;

static uint64_t next(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static int64_t below(int64_t n) { return (int64_t)(next() % (uint64_t)n); }

static int64_t wild(void)
{
    static const int64_t numbers[] = {0,
                                      1,
                                      -1,
                                      2,
                                      63,
                                      64,
                                      65,
                                      INT32_MAX,
                                      INT32_MIN,
                                      INT64_MAX,
                                      INT64_MIN,
                                      (int64_t)1 << 59,
                                      (int64_t)1 << 60,
                                      -((int64_t)1 << 60),
                                      (int64_t)1 << 62,
                                      3};
    return numbers[below(16)];
}

typedef struct {
    bnkern_tensor t;
    int64_t shape[BN_MOSTAXES], strides[BN_MOSTAXES];
} array;

/* An array in `memory`, with a shape as it should be; sometimes with one field that is not. */
static void make(array *a, char *memory, int ndim, const int64_t *shape, int bits)
{
    int64_t step = 1;
    memset(a, 0, sizeof(*a));
    a->t.data = memory + below(4) * 512;
    a->t.device.device_type = 1;
    a->t.ndim = ndim;
    a->t.dtype.code = 2, a->t.dtype.bits = (uint8_t)bits, a->t.dtype.lanes = 1;
    a->t.shape = a->shape, a->t.strides = below(3) ? a->strides : NULL;
    for (int d = ndim - 1; d >= 0; d--) {
        a->shape[d] = shape[d];
        a->strides[d] = step;
        step *= shape[d];
    }
    switch (below(40)) {
    case 0: a->t.data = NULL; break;
    case 1: a->t.ndim = (int32_t)wild(); break;
    case 2: a->t.shape = NULL; break;
    case 3: a->shape[below(ndim)] = wild(); break;
    case 4: a->strides[below(ndim)] = wild(); break;
    case 5: a->t.byte_offset = (uint64_t)wild(); break;
    case 6: a->t.device.device_type = (int32_t)wild(); break;
    case 7: a->t.dtype.bits = (uint8_t)wild(); break;
    case 8: a->t.dtype.code = (uint8_t)wild(); break;
    case 9: a->t.data = (void *)(uintptr_t)wild(); break;
    case 10: a->t.byte_offset = (uint64_t)below(9); break;
    default: break;
    }
}

/* Does the array lie in the memory that there is? */
static int inside(const bn_tensor *t, const char *memory)
{
    uint64_t begin, end;
    bn_tensor_span(t, &begin, &end);
    return !t->size || (begin >= (uint64_t)(uintptr_t)memory && end <= (uint64_t)(uintptr_t)(memory + MEMORY));
}

int main(void)
{
    static array arrays[BN_NARG];
    static bn_request r;
    static bn_tensor originals[BN_NLIKE];
    char *memory = calloc(1, MEMORY);
    int accepted = 0, statuses = 0;
    if (!memory) return 1;
    for (int round = 0; round < ROUNDS; round++) {
        const int ndim = 2 + (int)below(3), bits = below(2) ? 32 : 64;
        int64_t shape[4];
        char text[80];
        const bn_words words = {text, (size_t)below(sizeof(text) + 1)};
        bnkern_call call = BNKERN_CALL_INIT;
        const bnkern_tensor **given = &call.x;
        int status, fits = 1;
        for (int d = 0; d < ndim; d++) shape[d] = 1 + below(4);
        for (int k = 0; k < BN_NARG; k++) {
            make(&arrays[k], memory, k < BN_NLIKE ? ndim : 1, k < BN_NLIKE ? shape : &shape[1], bits);
            given[k] = below(3) ? &arrays[k].t : NULL;
        }
        switch (below(12)) {
        case 0: call.axis = (int32_t)wild(); break;
        case 1: call.threads = (int32_t)wild(); break;
        case 2: call.count = wild(); break;
        case 3: call.flags = (uint32_t)wild(); break;
        case 4: call.activation = (int32_t)wild(); break;
        case 5: call.eps = (double)wild(); break;
        case 6: call.correction = (double)wild(); break;
        default: call.activation = (int32_t)below(4), call.slope = 0.5, call.count = 64; break;
        }
        status = bn_request_of((bn_operation)below(BN_NOPERATION), &call, &r, &words);
        if (status < BNKERN_OK || status > BNKERN_OVERLAP) return 1;
        statuses |= 1 << status;
        if (status != BNKERN_OK) continue;
        for (int k = 0; k < BN_NARG; k++) fits &= !bn_has(&r, k) || inside(&r.arg[k], memory);
        if (!fits || r.operation == BN_UPDATE_RUNNING || !r.size) continue; /* right, of memory that is not there */
        accepted++;
        if (bn_request_spare_dx(&r) && bn_request_conform(&r, originals)) bn_request_deliver(&r, originals);
        bn_request_free(&r);
    }
    free(memory);
    printf("accepted %d, statuses %x\n", accepted, statuses);
    return accepted < 100 || statuses != (1 << (BNKERN_OVERLAP + 1)) - 1 - (1 << BNKERN_BAD_CALL);
}

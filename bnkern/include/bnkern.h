/* bnkern's CPU kernels for compiled callers: batch normalisation on arrays described by DLPack's DLTensor.
 *
 *     #include <Python.h>
 *     #include "bnkern.h"                                  found by bnkern.get_include()
 *
 *     const bnkern_api *bn = bnkern_import();              once, with the GIL; NULL: a Python error is set
 *
 *     bnkern_call call = BNKERN_CALL_INIT;                 from any thread, without the GIL
 *     char words[256];
 *     call.x = &x, call.y = &y, call.mean = &mean, call.var = &var;
 *     if (bn->train(&call, words, sizeof(words)) != BNKERN_OK) fail(words);
 *
 * Every argument is checked before anything is written; what is wrong comes back as a status and in words. A call reads
 * the fields that the table below names for it and no others, so one bnkern_call may serve the forward and the backward
 * call. Results are the bits that the Python functions give, for every number of threads and every layout. Calls hold no
 * lock and no state: any number of threads may make them at once. A pointer that is not one ends the process.
 *
 *     r read, R read and required, w written, W written and required, u updated; empty: not looked at
 *
 *                      train  inference  stats  backward  reduce  apply  update_running
 *     x                  R       R         R       R *      R *     R *
 *     dy                                           R        R       R
 *     residual           r       r
 *     y                  W       W                 r        r       r       (backward: what the forward call wrote)
 *     dx                                           w                W
 *     dresidual                                    w                w
 *     weight, bias       r       r                 r        r       r
 *     running_mean/_var  u       R                                          u (required)
 *     mean, var          w                 W       R        R       R       R
 *     dweight, dbias                               w
 *     sum_dy, _dy_xhat                                      W       R
 *     axis               +       +         +       +        +       +
 *     eps                +       +                 +        +       +
 *     activation         +       +                 +        +       +
 *     momentum, correction +                                                +
 *     count                                                         +       +
 *     threads, flags     +       +         +       +        +       +
 *
 *     * may be NULL where no pass reads x: frozen, with dx and dresidual alone wanted, and either no activation or y given.
 */
#ifndef BNKERN_H
#define BNKERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BNKERN_ABI_VERSION 1
#define BNKERN_CAPSULE "bnkern._C_API_1" /* holds a bnkern_api; another ABI will have another name */

/* An array: DLPack's DLTensor (dlpack.h 0.2 to 1.x, ABI-compatible). Included after dlpack.h this is DLTensor itself.
 *
 * Taken are: device.device_type 1 (CPU); dtype.lanes 1 with code 2 (float) and 16, 32 or 64 bits, or code 4 (bfloat16);
 * any strides (in elements; NULL: C order) and byte_offset. Written arrays must have a place for each element. Arrays
 * that are misaligned, or whose memory orders no kernel can walk together, are copied: right, but slower.
 */
#ifdef DLPACK_DLPACK_H_
typedef DLTensor bnkern_tensor;
#else
typedef struct bnkern_device {
    int32_t device_type;
    int32_t device_id;
} bnkern_device;

typedef struct bnkern_dtype {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
} bnkern_dtype;

typedef struct bnkern_tensor {
    void *data;
    bnkern_device device;
    int32_t ndim;
    bnkern_dtype dtype;
    int64_t *shape;
    int64_t *strides; /* in elements */
    uint64_t byte_offset;
} bnkern_tensor;
#endif

enum bnkern_status {
    BNKERN_OK = 0,
    BNKERN_BAD_CALL = 1,    /* no call, or one of a newer header that sets what this library does not know */
    BNKERN_MISSING = 2,     /* an argument is NULL that must be there */
    BNKERN_BAD_DEVICE = 3,  /* memory of another device than the CPU */
    BNKERN_BAD_DTYPE = 4,   /* another dtype than asked for */
    BNKERN_BAD_SHAPE = 5,   /* number of axes, lengths */
    BNKERN_BAD_STRIDES = 6, /* elements of a written array lie on each other, or addresses leave the range */
    BNKERN_BAD_VALUE = 7,   /* axis, eps, activation, momentum, correction, count, threads, flags */
    BNKERN_OVERLAP = 8,     /* written memory shares bytes with another array */
    BNKERN_NO_MEMORY = 9    /* no scratch; nothing was written */
};

enum bnkern_activation { BNKERN_IDENTITY = 0, BNKERN_RELU = 1, BNKERN_RELU6 = 2, BNKERN_LEAKY_RELU = 3 };

enum bnkern_flag { BNKERN_FROZEN = 1 }; /* backward: statistics were given, not computed: dx has no mean terms */

/* One call. Begin with BNKERN_CALL_INIT, or with zeros, size, and every number set. Arrays that are NULL are not there.
 *
 * x, dy, residual, y, dx and dresidual have one shape (2 to 64 axes) and dtype. All others are vectors of one number
 * for each channel, in float32, float64 or x's dtype, with any stride and alignment. y may be exactly x or residual
 * (backward: dx exactly dy, x or y); else written memory is apart from everything.
 */
typedef struct bnkern_call {
    uint64_t size;      /* sizeof(bnkern_call) */
    int32_t axis;       /* the channels': 1, or -1; any other too */
    int32_t activation; /* enum bnkern_activation */
    double eps;         /* at least 0, in train above; inside the root */
    double momentum;    /* running = (1 - momentum) * running + momentum * batch; any finite number */
    double correction;  /* the batch variance enters running_var as var * count / (count - correction): 1 or 0 */
    double slope;       /* of BNKERN_LEAKY_RELU: 0, or a normal number of float32 above 0 */
    int64_t count;      /* apply, update_running: values for each channel in the whole batch */
    int32_t threads;    /* 1 to 512; 0: bnkern->num_threads() */
    uint32_t flags;     /* enum bnkern_flag */
    const bnkern_tensor *x;
    const bnkern_tensor *dy;
    const bnkern_tensor *residual; /* added before the activation */
    const bnkern_tensor *y;        /* backward: needed for dresidual behind an activation */
    const bnkern_tensor *dx;
    const bnkern_tensor *dresidual; /* without activation a copy of dy; may then be dy itself */
    const bnkern_tensor *weight;    /* gamma; NULL: 1 */
    const bnkern_tensor *bias;      /* beta; NULL: 0 */
    const bnkern_tensor *running_mean;
    const bnkern_tensor *running_var;
    const bnkern_tensor *mean; /* of the batch; in a frozen backward call the statistics that y was made with */
    const bnkern_tensor *var;  /* population variance */
    const bnkern_tensor *dweight;
    const bnkern_tensor *dbias;
    const bnkern_tensor *sum_dy;
    const bnkern_tensor *sum_dy_xhat;
} bnkern_call;

/* A call with axis 1, eps 1e-5, momentum 0.1, correction 1, no activation, the usual threads, and no arrays. */
// clang-format off
#define BNKERN_CALL_INIT {sizeof(bnkern_call), 1, 0, 1e-5, 0.1, 1.0, 0.0, 0, 0, 0, \
                          NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}
// clang-format on

static inline bnkern_call bnkern_call_init(void) /* the same as a value */
{
    const bnkern_call call = BNKERN_CALL_INIT;
    return call;
}

/* `words` (may be NULL) takes a sentence where the status is not BNKERN_OK, cut to words_size bytes with the 0. */
typedef int (*bnkern_function)(const bnkern_call *call, char *words, size_t words_size);

typedef struct bnkern_api {
    uint32_t abi_version;           /* BNKERN_ABI_VERSION */
    uint32_t size;                  /* of this struct in the library; it grows at its end */
    const char *version;            /* of the library */
    bnkern_function train;          /* y from the batch's own statistics; running ones updated where given */
    bnkern_function inference;      /* y from running_mean and running_var */
    bnkern_function stats;          /* mean and var of x */
    bnkern_function backward;       /* the gradients whose arrays are given */
    bnkern_function reduce;         /* backward in parts: the two sums over this part, to be added over all parts */
    bnkern_function apply;          /* backward in parts: dx of this part, from sums and count of the whole */
    bnkern_function update_running; /* running statistics from mean, var and count; count 0 changes nothing */
    int (*num_threads)(void);       /* what bnkern.set_num_threads set in the process, or the machine allows */
} bnkern_api;

#ifdef Py_PYTHON_H
/* The functions, for good; NULL with a Python error set where bnkern cannot be imported or has another ABI. GIL held. */
static inline const bnkern_api *bnkern_import(void)
{
    PyObject *module = PyImport_ImportModule("bnkern._c_api"), *capsule;
    const bnkern_api *api = NULL;
    if (!module) return NULL;
    capsule = PyObject_GetAttrString(module, "_C_API_1");
    Py_DECREF(module);
    if (capsule) {
        api = (const bnkern_api *)PyCapsule_GetPointer(capsule, BNKERN_CAPSULE);
        Py_DECREF(capsule); /* the module keeps it */
    }
    if (!api) { /* another ABI has another name */
        PyErr_Clear();
        PyErr_SetString(PyExc_ImportError, "bnkern has no " BNKERN_CAPSULE ": it is of another ABI than the bnkern.h "
                                           "that this was compiled with");
    }
    if (api && (api->abi_version != BNKERN_ABI_VERSION || api->size < sizeof(bnkern_api))) {
        PyErr_Format(PyExc_ImportError, "bnkern %s is older than the bnkern.h that this was compiled with",
                     api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif

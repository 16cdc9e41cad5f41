"""The C API (bnkern/include/bnkern.h): from a checked request to the driver, on any thread, without the GIL.

What a call may be is checked in c_api/request.c. No function here touches a Python object but for the making of the
capsule, which bnkern._c_api hands out.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from bnkern._native.capi cimport *
from bnkern._native.driver cimport drive_anywhere
from bnkern._native.job cimport Job
from bnkern._native.kernels cimport kernels_of
from bnkern._native.plan cimport default_threads, prepare
from bnkern._native.vectors cimport update

cdef extern from "bnkern.h" nogil:
    enum:
        BNKERN_OK
        BNKERN_NO_MEMORY
        BNKERN_ABI_VERSION
    const char *BNKERN_CAPSULE

    ctypedef struct bnkern_call:
        double eps, momentum, correction, slope
        int64_t count
        int threads

    ctypedef int (*bnkern_function)(const bnkern_call *, char *, size_t) noexcept nogil

    ctypedef struct bnkern_api:
        uint32_t abi_version, size
        const char *version
        bnkern_function train, inference, stats, backward, reduce, apply, update_running
        int (*num_threads)() noexcept nogil

cdef extern from "c_api/request.h" nogil:
    enum bn_operation:
        BN_TRAIN
        BN_INFERENCE
        BN_STATISTICS
        BN_BACKWARD
        BN_REDUCE_PART
        BN_APPLY_PART
        BN_UPDATE_RUNNING

    enum:
        BN_ARG_X
        BN_ARG_DY
        BN_ARG_RESIDUAL
        BN_ARG_Y
        BN_ARG_DX
        BN_ARG_DRESIDUAL
        BN_NLIKE
        BN_ARG_WEIGHT
        BN_ARG_BIAS
        BN_ARG_RUNNING_MEAN
        BN_ARG_RUNNING_VAR
        BN_ARG_MEAN
        BN_ARG_VAR
        BN_ARG_DWEIGHT
        BN_ARG_DBIAS
        BN_ARG_SUM_DY
        BN_ARG_SUM_DY_XHAT

    ctypedef struct bn_tensor:
        char *data
        int type, ndim
        const int64_t *shape
        const int64_t *strides

    ctypedef struct bn_words:
        char *text
        size_t size

    ctypedef struct bn_request:
        bnkern_call call
        bn_operation operation
        int passes, frozen, axis, activation
        int64_t channels, count, size
        uint32_t given, written
        bn_tensor *arg

    int bn_refuse(const bn_words *, int status, const char *format, ...)
    int bn_request_of(bn_operation, const bnkern_call *, bn_request *, const bn_words *)
    bint bn_has(const bn_request *, int arg)
    bint bn_takes_part(const bn_request *, int arg)
    const bn_tensor *bn_first(const bn_request *)
    bint bn_tensor_aligned(const bn_tensor *)
    bint bn_tensor_same(const bn_tensor *, const bn_tensor *)
    void bn_tensor_copy(const bn_tensor *to, const bn_tensor *source)
    bint bn_request_spare_dx(bn_request *)
    bint bn_request_conform(bn_request *, bn_tensor *originals)
    void bn_request_deliver(const bn_request *, const bn_tensor *originals)
    void bn_request_free(bn_request *)


# ---- from a request to a Job --------------------------------------------------------------------------------------

cdef int operand_of(const bn_request *r, int arg) noexcept nogil:
    """The driver's number of an array like x."""
    if arg == BN_ARG_X:
        return BN_OPERAND_X
    if arg == BN_ARG_DY:
        return BN_OPERAND_DY
    if arg == BN_ARG_RESIDUAL:
        return BN_OPERAND_RESIDUAL
    if arg == BN_ARG_Y:
        return BN_OPERAND_OUT if r.passes & BN_NORMALISE else BN_OPERAND_Y
    return BN_OPERAND_OUT if arg == BN_ARG_DX else BN_OPERAND_DRESIDUAL


cdef bint ready(Job *job, const bn_request *r) noexcept nogil:
    """Collapse axes, settle the layout and plan; False where no kernel can walk the arrays as they lie."""
    cdef const int64_t *strides[BN_NOPERAND]
    cdef const bn_tensor *first = bn_first(r)
    cdef int arg, operand
    memset(strides, 0, sizeof(strides))
    for arg in range(BN_NLIKE):
        if bn_takes_part(r, arg):
            if not bn_tensor_aligned(&r.arg[arg]):
                return False
            operand = operand_of(r, arg)
            job.operands[operand].data = r.arg[arg].data
            strides[operand] = r.arg[arg].strides
    return prepare(job, first.ndim, first.shape, r.axis, strides, r.call.threads or default_threads())


cdef inline void view(const bn_request *r, int arg, bn_vector *v) noexcept nogil:
    memset(v, 0, sizeof(bn_vector))
    if bn_has(r, arg):
        v.data = r.arg[arg].data
        v.stride = r.arg[arg].strides[0]
        v.type = r.arg[arg].type


cdef void fill(Job *job, const bn_request *r, double *results) noexcept nogil:
    """Everything but the arrays like x. `results`: two numbers for each channel, of the reduction."""
    memset(job, 0, sizeof(Job))
    job.kernels = kernels_of(bn_first(r).type)
    job.passes = r.passes
    job.flags = BN_FROZEN if r.frozen else 0
    job.activation = r.activation
    job.parameter = r.call.slope
    job.eps = r.call.eps
    job.count = r.call.count if r.operation == BN_APPLY_PART else r.count
    view(r, BN_ARG_WEIGHT, &job.weight)
    view(r, BN_ARG_BIAS, &job.bias)
    if r.passes & BN_STATS:
        job.mean, job.var = results, results + r.channels
    else:
        view(r, BN_ARG_RUNNING_MEAN if r.operation == BN_INFERENCE else BN_ARG_MEAN, &job.saved_mean)
        view(r, BN_ARG_RUNNING_VAR if r.operation == BN_INFERENCE else BN_ARG_VAR, &job.saved_var)
    if r.passes & BN_REDUCE:
        job.sum_dy, job.sum_dy_xhat = results, results + r.channels
    elif r.operation == BN_APPLY_PART:
        view(r, BN_ARG_SUM_DY, &job.saved_sum_dy)
        view(r, BN_ARG_SUM_DY_XHAT, &job.saved_sum_dy_xhat)


# ---- results for each channel -------------------------------------------------------------------------------------

cdef void store(const bn_request *r, int arg, const double *values) noexcept nogil:
    """Into the caller's vector, rounded once, in the default floating-point mode."""
    cdef bn_vector v
    cdef uint64_t mode
    if bn_has(r, arg) and r.channels:
        view(r, arg, &v)
        mode = bn_fenv_begin()
        bn_vector_write(&v, 0, r.channels, values)
        bn_fenv_end(mode)


cdef void store_results(const bn_request *r, const double *first, const double *second) noexcept nogil:
    if r.passes & BN_STATS:
        store(r, BN_ARG_MEAN, first)
        store(r, BN_ARG_VAR, second)
    elif r.operation == BN_REDUCE_PART:
        store(r, BN_ARG_SUM_DY, first)
        store(r, BN_ARG_SUM_DY_XHAT, second)
    elif r.operation == BN_BACKWARD:
        store(r, BN_ARG_DBIAS, first)
        store(r, BN_ARG_DWEIGHT, second)


cdef void run_into(const bn_request *r, const bn_vector *mean, const bn_vector *var, int64_t count) noexcept nogil:
    """Running statistics towards those of `count` values."""
    cdef bn_vector running_mean, running_var
    cdef uint64_t mode
    cdef double scale
    if count and bn_has(r, BN_ARG_RUNNING_MEAN):
        view(r, BN_ARG_RUNNING_MEAN, &running_mean)
        view(r, BN_ARG_RUNNING_VAR, &running_var)
        update(&running_mean, mean, r.channels, r.call.momentum, 1.0)
        mode = bn_fenv_begin()
        scale = <double> count / (<double> count - r.call.correction)
        bn_fenv_end(mode)
        update(&running_var, var, r.channels, r.call.momentum, scale)


# ---- a call -------------------------------------------------------------------------------------------------------

cdef bint compute(bn_request *r, double *results) noexcept nogil:
    """The passes. False: no memory, and nothing was written."""
    cdef Job job
    cdef bn_tensor originals[BN_NLIKE]
    cdef bint copied
    if r.passes == 0 or r.size == 0:
        return True
    if not bn_request_spare_dx(r):
        return False
    fill(&job, r, results)
    copied = not ready(&job, r)
    if copied:
        if not bn_request_conform(r, originals):
            return False
        fill(&job, r, results)
        ready(&job, r)
    if not drive_anywhere(&job):
        return False
    if copied:
        bn_request_deliver(r, originals)
    return True


cdef void finish(const bn_request *r, double *results) noexcept nogil:
    """What follows the passes."""
    cdef bn_vector mean, var
    store_results(r, results, results + r.channels)
    if r.operation == BN_TRAIN:
        mean.data, mean.stride, mean.type = <char *> results, sizeof(double), BN_F64
        var.data, var.stride, var.type = <char *> (results + r.channels), sizeof(double), BN_F64
        run_into(r, &mean, &var, r.count)
    elif r.activation == 0 and bn_has(r, BN_ARG_DRESIDUAL):
        if not bn_tensor_same(&r.arg[BN_ARG_DRESIDUAL], &r.arg[BN_ARG_DY]):
            bn_tensor_copy(&r.arg[BN_ARG_DRESIDUAL], &r.arg[BN_ARG_DY])


cdef int perform(bn_operation operation, const bnkern_call *call, char *text, size_t size) noexcept nogil:
    """One call of the C API: a status."""
    cdef bn_request r
    cdef bn_words words
    cdef bn_vector mean, var
    cdef double *results
    cdef int status
    words.text, words.size = text, size
    status = bn_request_of(operation, call, &r, &words)
    if status != BNKERN_OK:
        return status
    if operation == BN_UPDATE_RUNNING:
        view(&r, BN_ARG_MEAN, &mean)
        view(&r, BN_ARG_VAR, &var)
        run_into(&r, &mean, &var, r.call.count)
        return BNKERN_OK
    results = <double *> calloc(2 * r.channels + 1, sizeof(double))
    if results == NULL or not compute(&r, results):
        status = bn_refuse(&words, BNKERN_NO_MEMORY, "bnkern: no memory for the scratch of this call")
    else:
        finish(&r, results)
    bn_request_free(&r)
    free(results)
    return status


cdef int train(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_TRAIN, call, words, size)


cdef int inference(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_INFERENCE, call, words, size)


cdef int stats(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_STATISTICS, call, words, size)


cdef int backward(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_BACKWARD, call, words, size)


cdef int reduce_part(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_REDUCE_PART, call, words, size)


cdef int apply_part(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_APPLY_PART, call, words, size)


cdef int update_running(const bnkern_call *call, char *words, size_t size) noexcept nogil:
    return perform(BN_UPDATE_RUNNING, call, words, size)


# ---- the capsule --------------------------------------------------------------------------------------------------

cdef bnkern_api api
cdef bytes version_held


def capsule(version: str):
    """The table of functions, for bnkern_import()."""
    global version_held
    version_held = version.encode()
    api.abi_version = BNKERN_ABI_VERSION
    api.size = sizeof(bnkern_api)
    api.version = version_held
    api.train, api.inference, api.stats = train, inference, stats
    api.backward, api.reduce, api.apply = backward, reduce_part, apply_part
    api.update_running = update_running
    api.num_threads = default_threads
    return PyCapsule_New(&api, BNKERN_CAPSULE, NULL)

# bnkern's C API for Cython: `from bnkern.capi cimport bnkern_api, bnkern_call, ...`. Meaning: include/bnkern.h, whose
# folder (bnkern.get_include()) the C compiler must be told. Nothing but types: no compiled module is linked.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "bnkern.h" nogil:
    enum:
        BNKERN_ABI_VERSION

    enum bnkern_status:
        BNKERN_OK
        BNKERN_BAD_CALL
        BNKERN_MISSING
        BNKERN_BAD_DEVICE
        BNKERN_BAD_DTYPE
        BNKERN_BAD_SHAPE
        BNKERN_BAD_STRIDES
        BNKERN_BAD_VALUE
        BNKERN_OVERLAP
        BNKERN_NO_MEMORY

    enum bnkern_activation:
        BNKERN_IDENTITY
        BNKERN_RELU
        BNKERN_RELU6
        BNKERN_LEAKY_RELU

    enum bnkern_flag:
        BNKERN_FROZEN

    ctypedef struct bnkern_device:
        int32_t device_type
        int32_t device_id

    ctypedef struct bnkern_dtype:
        uint8_t code
        uint8_t bits
        uint16_t lanes

    ctypedef struct bnkern_tensor:
        void *data
        bnkern_device device
        int32_t ndim
        bnkern_dtype dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset

    ctypedef struct bnkern_call:
        uint64_t size
        int32_t axis, activation
        double eps, momentum, correction, slope
        int64_t count
        int32_t threads
        uint32_t flags
        const bnkern_tensor *x
        const bnkern_tensor *dy
        const bnkern_tensor *residual
        const bnkern_tensor *y
        const bnkern_tensor *dx
        const bnkern_tensor *dresidual
        const bnkern_tensor *weight
        const bnkern_tensor *bias
        const bnkern_tensor *running_mean
        const bnkern_tensor *running_var
        const bnkern_tensor *mean
        const bnkern_tensor *var
        const bnkern_tensor *dweight
        const bnkern_tensor *dbias
        const bnkern_tensor *sum_dy
        const bnkern_tensor *sum_dy_xhat

    bnkern_call bnkern_call_init()  # BNKERN_CALL_INIT as a value

    ctypedef int (*bnkern_function)(const bnkern_call *call, char *words, size_t words_size) noexcept nogil

    ctypedef struct bnkern_api:
        uint32_t abi_version, size
        const char *version
        bnkern_function train, inference, stats, backward, reduce, apply, update_running
        int (*num_threads)() noexcept nogil

cdef extern from "bnkern.h":
    const bnkern_api *bnkern_import() except NULL  # with the GIL, once

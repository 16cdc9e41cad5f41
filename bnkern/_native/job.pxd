# One call as the driver carries it: what is to be done, the plan, and the scratch. Types and small helpers.
from libc.stdint cimport int64_t

from bnkern._native.capi cimport *

cdef enum:
    LINE = 64  # bytes of a cache line: what two threads write never shares one

ctypedef struct Job:
    # set by the caller; everything else zero
    const bn_kernels *kernels
    bn_shape shape
    int layout
    bn_operand operands[BN_NOPERAND]
    int passes                # BN_STATS ...: one reduction, one elementwise pass, or both
    int flags                 # BN_FROZEN
    int activation
    double parameter          # of the activation
    double eps
    double count              # the divisor of the sums in the mean terms of dx
    bn_vector weight, bias
    bn_vector saved_mean, saved_var, saved_sum_dy, saved_sum_dy_xhat  # what an earlier reduction found
    double *mean              # results of BN_STATS
    double *var
    double *sum_dy            # results of BN_REDUCE
    double *sum_dy_xhat
    bn_plan plan
    # the driver's own
    char *coef                # BN_NCOEF rows of `cs` elements
    int64_t cs
    char *flat_tile           # coefficients of a flat row
    double *part_a            # the blocks' results, merged by finish_reduction
    double *part_b
    char *scratch             # of all threads
    int64_t scratch_bytes     # of each
    int phase
    void *work                # what all threads do now: a worker of driver.pyx
    int stop                  # raised by Ctrl-C
    double next_poll          # when the calling thread asks Python for Ctrl-C; infinite: never


cdef inline int64_t minimum(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t maximum(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef inline int64_t ceil_div(int64_t a, int64_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline int64_t row_length(Job *job) noexcept nogil:
    return job.shape.size[job.shape.nd - 1]


cdef inline int64_t rows_per_channel(Job *job) noexcept nogil:
    return job.shape.count // row_length(job)


cdef inline char *thread_scratch(Job *job, int t) noexcept nogil:
    return job.scratch + t * job.scratch_bytes


cdef inline int64_t columns_of_a_line(Job *job) noexcept nogil:
    return LINE // job.shape.itemsize


cdef inline char *coef_of(Job *job, int64_t c) noexcept nogil:
    return job.coef + c * job.kernels.arithsize


cdef inline int coef_rows(Job *job) noexcept nogil:
    """How many rows of coefficients the elementwise pass reads."""
    return (BN_SLOPE if job.passes & BN_INPUT_GRAD else BN_SHIFT) + 1


cdef inline bint passes_belong_together(int passes) noexcept nogil:
    """One reduction, one elementwise pass, or the two of a training step's forward or backward half."""
    return (passes == BN_STATS or passes == BN_REDUCE or passes == BN_NORMALISE or passes == BN_INPUT_GRAD
            or passes == (BN_STATS | BN_NORMALISE) or passes == (BN_REDUCE | BN_INPUT_GRAD))

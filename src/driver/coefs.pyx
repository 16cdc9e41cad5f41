"""Numbers for each channel: coefficients from what was saved, and a reduction's end."""
from libc.stdint cimport int64_t

from bnkern._native.capi cimport *
from bnkern._native.job cimport *

cdef enum:
    STRIP = 64  # channels whose numbers lie on the stack


cdef void coefs_from_saved(Job *job, int64_t c0, int64_t c1) noexcept nogil:
    """Coefficients of channels c0 .. c1-1 from statistics, and sums, of an earlier call."""
    cdef double first[STRIP]
    cdef double second[STRIP]
    cdef int64_t c = c0, n
    while c < c1:
        n = minimum(STRIP, c1 - c)
        bn_vector_read(&job.saved_mean, c, n, 0.0, first)
        bn_vector_read(&job.saved_var, c, n, 0.0, second)
        coefs_from_stats(job, c, n, first, second)
        if job.passes == BN_INPUT_GRAD and not job.flags & BN_FROZEN:
            bn_vector_read(&job.saved_sum_dy, c, n, 0.0, first)
            bn_vector_read(&job.saved_sum_dy_xhat, c, n, 0.0, second)
            job.kernels.coefs_backward(coef_of(job, c), job.cs, n, first, second, job.count)
        c += n


cdef void coefs_from_stats(Job *job, int64_t c, int64_t n, const double *mean, const double *var) noexcept nogil:
    """The forward coefficients of n <= STRIP channels from c on."""
    cdef double weight[STRIP]
    cdef double bias[STRIP]
    bn_vector_read(&job.weight, c, n, 1.0, weight)
    bn_vector_read(&job.bias, c, n, 0.0, bias)
    job.kernels.coefs_forward(coef_of(job, c), job.cs, n, mean, var, job.eps, weight, bias)


cdef void finish_reduction(Job *job, const double *a, const double *b, int64_t next_block, int64_t next_channel,
                           int64_t c0, int64_t c1) noexcept nogil:
    """Results of channels c0 .. c1-1 from those of their blocks, and the coefficients of the elementwise pass."""
    cdef bn_parts parts
    cdef int64_t c = c0, n
    parts.a, parts.b = a, b
    parts.next_block, parts.next_channel = next_block, next_channel
    parts.blocks, parts.channels, parts.count = job.plan.blocks, c1 - c0, job.shape.count
    if job.passes & BN_STATS:
        job.kernels.merge_moments(&parts, job.mean + c0, job.var + c0)
    else:
        job.kernels.merge_sums(&parts, coef_of(job, c0), job.cs, job.sum_dy + c0, job.sum_dy_xhat + c0)
    if job.passes & BN_NORMALISE:
        while c < c1:
            n = minimum(STRIP, c1 - c)
            coefs_from_stats(job, c, n, job.mean + c, job.var + c)
            c += n
    elif job.passes & BN_INPUT_GRAD:
        job.kernels.coefs_backward(coef_of(job, c0), job.cs, c1 - c0, job.sum_dy + c0, job.sum_dy_xhat + c0, job.count)

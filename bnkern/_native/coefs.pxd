# Numbers for each channel, before and after a reduction.
from libc.stdint cimport int64_t

from bnkern._native.job cimport Job

cdef void coefs_from_saved(Job *job, int64_t c0, int64_t c1) noexcept nogil
cdef void finish_reduction(Job *job, const double *a, const double *b, int64_t next_block, int64_t next_channel,
                           int64_t c0, int64_t c1) noexcept nogil

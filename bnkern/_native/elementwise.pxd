# The elementwise passes on pieces of an array.
from libc.stdint cimport int64_t

from bnkern._native.job cimport Job

cdef void run_group(Job *job, int64_t c0, int64_t c1, int64_t q0, int64_t q1, char *tile,
                    int64_t prefetch) noexcept nogil
cdef void run_piece(Job *job, int64_t c, int64_t i, int64_t n) noexcept nogil
cdef void run_columns(Job *job, int64_t c0, int64_t c1, int64_t i, int64_t end) noexcept nogil
cdef void run_chunk(Job *job, int64_t i, int64_t end) noexcept nogil

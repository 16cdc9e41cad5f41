# The reductions on pieces of an array.
from libc.stdint cimport int64_t

from bnkern._native.capi cimport bn_sums
from bnkern._native.job cimport Job

cdef void reduce_rows(Job *job, int64_t c0, int64_t c1, int64_t i, int64_t end, bn_sums *sums, double *a, double *b,
                      char *scratch) noexcept nogil
cdef int64_t joined_scratch(Job *job) noexcept nogil
cdef void reduce_panel(Job *job, int64_t c, int64_t width, int64_t k, double *a, double *b,
                       char *scratch) noexcept nogil

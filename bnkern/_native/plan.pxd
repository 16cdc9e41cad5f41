# Plans for calls.
from libc.stdint cimport int64_t

from bnkern._native.job cimport Job

# Collapses the axes, settles the layout and plans. 0: the operands have no layout in common; nothing was done.
# `strides` has one entry for each operand, NULL where it is not there.
cdef bint prepare(Job *job, int ndim, const int64_t *sizes, int axis, const int64_t *const *strides,
                  int threads) noexcept nogil

# A call begins and ends, so that others that run beside it take fewer threads.
cdef void call_begins() noexcept nogil
cdef void call_ends() noexcept nogil

# How many threads may be had where so many are wanted.
cdef int threads_of(int wanted) noexcept nogil

# How many the process's calls take where nothing else is said: bnkern._threads tells, once it was asked.
cdef int default_threads() noexcept nogil

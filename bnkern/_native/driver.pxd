# The driver for other Cython modules: fill a Job's upper part (job.pxd), `prepare` it, `drive` it.
from libc.stdint cimport int64_t

from bnkern._native.capi cimport bn_machine
from bnkern._native.job cimport Job

# Collapses the axes, settles the layout and plans. 0: the operands have no layout in common; nothing was done.
# `strides` has one entry for each operand, NULL where it is not there.
cdef bint prepare(Job *job, int ndim, const int64_t *sizes, int axis, const int64_t *const *strides, int threads) noexcept

# Runs the passes. Takes the scratch before anything is written; raises MemoryError, or what a signal handler raised.
cdef int drive(Job *job) except -1

# The limit of this machine: out = x, or out = x + dy, of `count` adjacent elements.
cdef int stream(Job *job, int64_t count, int threads) except -1

# The facts of a plan, for explain and tests.
cdef dict facts_of(Job *job, const int64_t *const *strides, int threads)

# The driver for other Cython modules: fill a Job's upper part (job.pxd), `prepare` it (plan.pxd), `drive` it.
from libc.stdint cimport int64_t

from bnkern._native.job cimport Job

# Runs the passes. Takes the scratch before anything is written; raises MemoryError, or what a signal handler raised.
cdef int drive(Job *job) except -1

# The same for any thread, with the GIL or without; nobody looks at Ctrl-C. False: no memory for scratch.
cdef bint drive_anywhere(Job *job) noexcept nogil

# The limit of this machine: out = x, or out = x + dy, of `count` adjacent elements.
cdef int stream(Job *job, int64_t count, int threads) except -1

# The phases of a call.
from bnkern._native.job cimport Job

cdef enum:
    PHASE_BEGIN = 0
    PHASE_REDUCE
    PHASE_FINISH
    PHASE_ELEMENTWISE
    PHASE_DONE
    PHASE_STREAM

cdef extern from *:
    """
    #define BN_POLL 0.05
    """
    const double POLL "BN_POLL"  # seconds between two looks at Ctrl-C

ctypedef void (*worker)(Job *, int) noexcept nogil

# What all threads do next; NULL: nothing. One thread asks, between two phases.
cdef worker next_worker(Job *job) noexcept nogil

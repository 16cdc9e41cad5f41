# NumPy vectors of one number for each channel.
cimport numpy as cnp
from libc.stdint cimport int64_t

from bnkern._native.capi cimport bn_vector

cdef int type_of(cnp.ndarray a, str name) except -1  # BN_F32 ...
cdef cnp.ndarray vector_of(object given, str name)   # 1-D and in native byte order: the one given, if it is
cdef int view_vector(cnp.ndarray a, bn_vector *v, str name) except -1

# running = (1 - momentum) * running + momentum * (value * scale), in the default floating-point mode.
cdef void update(const bn_vector *running, const bn_vector *value, int64_t channels, double momentum,
                 double scale) noexcept nogil

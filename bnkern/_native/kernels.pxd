# The tables of kernels, one for each storage type, on the level in use.
from bnkern._native.capi cimport bn_kernels

cdef const bn_kernels *kernels_of(int type) noexcept nogil  # BN_F32 ...

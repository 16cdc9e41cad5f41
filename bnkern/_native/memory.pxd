# Memory for results.
cimport numpy as cnp

cdef cnp.ndarray new_like(cnp.ndarray model)

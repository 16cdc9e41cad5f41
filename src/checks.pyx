"""Fast checks: the common cases of a call, answered in a tenth of a microsecond.

A False says no more than that the long way must be gone, which finds the words (bnkern's checks).
"""
cimport numpy as cnp
from libc.string cimport memcmp

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    void *PyArray_BASE(cnp.ndarray)
    bint PyArray_ISCARRAY(cnp.ndarray)
    bint PyArray_CHKFLAGS(cnp.ndarray, int)
    enum:
        NPY_ARRAY_OWNDATA


cdef inline bint exact(object a) noexcept:
    return type(a) is cnp.ndarray


cdef inline bint owner(object a) noexcept:
    """An array of NumPy whose memory no other array has, or had first."""
    return exact(a) and PyArray_BASE(a) == NULL and PyArray_CHKFLAGS(a, NPY_ARRAY_OWNDATA)


def vectors(x, Py_ssize_t channels, int required, *vectors):
    """x and all vectors are plain arrays, each of `channels` float32 or float64; those not required may be None."""
    cdef int number
    if not exact(x):
        return False
    for v in vectors:
        if v is None:
            if required > 0:
                return False
        elif not exact(v) or (<cnp.ndarray> v).ndim != 1 or (<cnp.ndarray> v).shape[0] != channels:
            return False
        else:
            number = cnp.PyArray_TYPE(v)
            if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64:
                return False
        required -= 1
    return True


def twin(x, a):
    """Both are plain arrays, of one type and shape."""
    return (
        exact(a) and exact(x) and cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(x)
        and (<cnp.ndarray> a).ndim == (<cnp.ndarray> x).ndim
        and memcmp((<cnp.ndarray> a).shape, (<cnp.ndarray> x).shape, (<cnp.ndarray> a).ndim * sizeof(cnp.npy_intp)) == 0
    )


def output(out, *others):
    """out can be written, owns its memory, and so does every other array that is not out itself."""
    if not owner(out) or not PyArray_ISCARRAY(out):
        return False
    for a in others:
        if a is not None and a is not out and not owner(a):
            return False
    return True


def running(mean, var, *others):
    """Both lie gapless, can be written, own their memory; neither is the other nor among the others, who own theirs."""
    if mean is var or not (owner(mean) and owner(var)):
        return False
    if not (PyArray_ISCARRAY(mean) and PyArray_ISCARRAY(var)):  # strides can be set afterwards
        return False
    for a in others:
        if a is not None and (a is mean or a is var or not owner(a)):
            return False
    return True

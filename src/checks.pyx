"""Fast checks: the common cases of a call, answered in a tenth of a microsecond.

A False says no more than that the long way must be gone, which finds the words (bnkern's checks).
"""
cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcmp

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISCARRAY(cnp.ndarray)


cdef inline bint exact(object a) noexcept:
    return type(a) is cnp.ndarray


cdef struct Span:
    int64_t begin  # addresses as numbers: some lie outside all memory
    int64_t end    # the first byte behind it


cdef inline bint span_of(cnp.ndarray a, Span *span) noexcept:
    """The bytes between an array's first and last, gaps among them; False where strides are too wild to tell."""
    cdef int d
    cdef double reach = 0
    span.begin = span.end = <int64_t> <size_t> a.data
    for d in range(a.ndim):
        if a.shape[d] == 0:
            return True
        reach += <double> a.strides[d] * <double> (a.shape[d] - 1) * (1 if a.strides[d] > 0 else -1)
    if reach > 4e18:
        return False
    for d in range(a.ndim):
        if a.strides[d] < 0:
            span.begin += a.strides[d] * (a.shape[d] - 1)
        else:
            span.end += a.strides[d] * (a.shape[d] - 1)
    span.end += cnp.PyArray_ITEMSIZE(a)
    return True


cdef inline bint apart(Span *span, object a) noexcept:
    """`a` is a plain array whose bytes begin behind the span, or end before it."""
    cdef Span other
    if not exact(a) or not span_of(<cnp.ndarray> a, &other):
        return False
    return other.end <= span.begin or span.end <= other.begin


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
    """out lies gapless and can be written; every other array that is not out itself lies apart from it."""
    cdef Span span
    if not exact(out) or not PyArray_ISCARRAY(out) or not span_of(out, &span):
        return False
    for a in others:
        if a is not None and a is not out and not apart(&span, a):
            return False
    return True


def running(mean, var, *others):
    """Both lie gapless and can be written; neither touches the other or one of the others."""
    cdef Span of_mean, of_var
    if not exact(mean) or not exact(var) or not PyArray_ISCARRAY(mean) or not PyArray_ISCARRAY(var):
        return False
    if not span_of(mean, &of_mean) or not span_of(var, &of_var) or not apart(&of_mean, var):
        return False
    for a in others:
        if a is not None and not (apart(&of_mean, a) and apart(&of_var, a)):
            return False
    return True

"""Arithmetic on one number for each channel, as the kernels do it: in float64, rounded once, in the default mode."""
cimport numpy as cnp
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from bnkern._native.capi cimport *
from bnkern._native.job cimport minimum

cnp.import_array()

cdef extern from *:
    """
    _Static_assert(sizeof(npy_intp) == sizeof(int64_t), "shapes and strides of NumPy are handed on as int64_t");
    """

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_USERDEF
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void *dtype, int subok)

cdef enum:
    STRIP = 128  # numbers that lie on the stack

cdef object float32 = cnp.PyArray_DescrFromType(cnp.NPY_FLOAT32)
cdef int bfloat16_number = -1  # of ml_dtypes.bfloat16 among NumPy's types, once it was seen


cdef int type_of(cnp.ndarray a, str name) except -1:
    """BN_F32 and so on. uint16 stands for the bits of a bfloat16, which NumPy alone does not know."""
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT32:
        return BN_F32
    if number == cnp.NPY_FLOAT64:
        return BN_F64
    if number == cnp.NPY_FLOAT16:
        return BN_F16
    if number == cnp.NPY_UINT16 or number == bfloat16_number:
        return BN_BF16
    if number >= NPY_USERDEF and a.dtype.type.__name__ == "bfloat16":
        bfloat16_number = number
        return BN_BF16
    raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {a.dtype}")


cdef cnp.ndarray vector_of(object given, str name):
    """A 1-D array in native byte order: the one given, if it is."""
    cdef cnp.ndarray a
    if not isinstance(given, cnp.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(given).__name__}")
    a = given
    if a.ndim != 1:
        raise ValueError(f"{name}: expected a vector, got shape {given.shape}")
    return a if cnp.PyArray_ISNOTSWAPPED(a) else given.astype(given.dtype.newbyteorder("="))


cdef int view_vector(cnp.ndarray a, bn_vector *v, str name) except -1:
    v.type = type_of(a, name)
    v.data = a.data
    v.stride = a.strides[0]
    return 0


def ema_update(running, value, double momentum, double scale):
    """running = (1 - momentum) * running + momentum * (value * scale) in float64, in place; False: bytes swapped."""
    cdef cnp.ndarray value_array
    cdef bn_vector r, v
    if not isinstance(running, cnp.ndarray) or vector_of(running, "running") is not running:
        return False
    value_array = vector_of(value, "value")
    if (<cnp.ndarray> running).shape[0] != value_array.shape[0]:
        raise ValueError(f"running: expected the shape of value, {value.shape}, got {running.shape}")
    if not cnp.PyArray_ISWRITEABLE(running):
        raise ValueError("running: expected a writeable array, got a read-only one; see bnkern.update_running")
    view_vector(running, &r, "running")
    view_vector(value_array, &v, "value")
    update(&r, &v, value_array.shape[0], momentum, scale)
    return True


def ema_update_both(mean, new_mean, var, new_var, double momentum, double scale):
    """`ema_update` of plain arrays, in place: of mean, and of var with `scale`. False: nothing was done."""
    cdef bn_vector views[4]
    cdef cnp.ndarray a
    cdef int64_t channels = -1
    cdef int k = 0
    for v in (mean, new_mean, var, new_var):
        if type(v) is not cnp.ndarray:
            return False
        a = v
        if a.ndim != 1 or not cnp.PyArray_ISNOTSWAPPED(a) or (k % 2 == 0 and not cnp.PyArray_ISWRITEABLE(a)):
            return False
        if channels >= 0 and a.shape[0] != channels:
            return False
        channels = a.shape[0]
        view_vector(a, &views[k], "running")
        k += 1
    update(&views[0], &views[1], channels, momentum, 1.0)
    update(&views[2], &views[3], channels, momentum, scale)
    return True


cdef void update(const bn_vector *running, const bn_vector *value, int64_t channels, double momentum,
                 double scale) noexcept nogil:
    cdef double old[STRIP]
    cdef double new[STRIP]
    cdef int64_t c = 0, n
    cdef uint64_t mode = bn_fenv_begin()
    while c < channels:
        n = minimum(STRIP, channels - c)
        bn_vector_read(running, c, n, 0.0, old)
        bn_vector_read(value, c, n, 0.0, new)
        bn_ema(old, new, n, momentum, scale)
        bn_vector_write(running, c, n, old)
        c += n
    bn_fenv_end(mode)


def cast(value, dtype):
    """A vector in another dtype, rounded once, without a warning where that is infinite."""
    cdef cnp.ndarray value_array = vector_of(value, "value"), result
    cdef bn_vector v, to
    if dtype is float32:  # the common case, with less ado
        result = cnp.PyArray_EMPTY(1, value_array.shape, cnp.NPY_FLOAT32, 0)
    else:
        result = PyArray_NewLikeArray(value_array, cnp.NPY_CORDER, take_descr(dtype), 0)
    view_vector(value_array, &v, "value")
    view_vector(result, &to, "dtype")
    convert(&v, &to, value_array.shape[0])
    return result


cdef void convert(bn_vector *value, bn_vector *to, int64_t channels) noexcept:
    cdef double numbers[STRIP]
    cdef int64_t c = 0, n
    cdef uint64_t mode = bn_fenv_begin()
    while c < channels:
        n = minimum(STRIP, channels - c)
        bn_vector_read(value, c, n, 0.0, numbers)
        bn_vector_write(to, c, n, numbers)
        c += n
    bn_fenv_end(mode)


def cast_each(dtype, vectors):
    """Those of the vectors, of which any may be None, in the dtype of a result; None where one is no plain array."""
    cdef cnp.dtype to = dtype
    for v in vectors:
        if v is not None and type(v) is not cnp.ndarray:
            return None
    return [v if v is None or cnp.PyArray_TYPE(v) == to.type_num else cast(v, to) for v in vectors]


cdef void *take_descr(object dtype) except NULL:
    """A reference of its own to a dtype, for functions of NumPy's C API that keep it."""
    if not isinstance(dtype, cnp.dtype):
        raise TypeError(f"dtype: expected a NumPy dtype, got {dtype!r}")
    Py_INCREF(dtype)
    return <void *> dtype

"""bnkern.h by ctypes: the functions of the capsule on NumPy arrays, without the GIL."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64

import numpy as np

import bnkern

OK, BAD_CALL, MISSING, BAD_DEVICE, BAD_DTYPE, BAD_SHAPE, BAD_STRIDES, BAD_VALUE, OVERLAP, NO_MEMORY = range(10)
ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "leaky_relu": 3}
FROZEN = 1


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
        ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)), ("byte_offset", c_uint64),
    )  # fmt: skip


NUMBERS = {
    "size": c_uint64, "axis": c_int32, "activation": c_int32, "eps": c_double, "momentum": c_double,
    "correction": c_double, "slope": c_double, "count": c_int64, "threads": c_int32, "flags": c_uint32,
}  # fmt: skip
ARRAYS = (
    "x", "dy", "residual", "y", "dx", "dresidual", "weight", "bias", "running_mean", "running_var", "mean", "var",
    "dweight", "dbias", "sum_dy", "sum_dy_xhat",
)  # fmt: skip


class Call(ctypes.Structure):
    _fields_ = (*NUMBERS.items(), *((name, POINTER(Tensor)) for name in ARRAYS))


FUNCTION = ctypes.CFUNCTYPE(c_int, ctypes.c_void_p, c_char_p, c_size_t)
OPERATIONS = ("train", "inference", "stats", "backward", "reduce", "apply", "update_running")


class Api(ctypes.Structure):
    _fields_ = (
        ("abi_version", c_uint32), ("size", c_uint32), ("version", c_char_p),
        *((name, FUNCTION) for name in OPERATIONS),
        ("num_threads", ctypes.CFUNCTYPE(c_int)),
    )  # fmt: skip


def api():
    """The table of functions in the capsule."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, c_char_p)
    return Api.from_address(get(bnkern._C_API_1, b"bnkern._C_API_1"))


API = api()


def tensor(a):
    """A NumPy array as a DLTensor; float64 means float64, uint16 and ml_dtypes.bfloat16 mean bfloat16."""
    half = a.dtype.name in ("uint16", "bfloat16")
    t = Tensor(a.ctypes.data, 1, 0, a.ndim, 4 if half else 2, 8 * a.itemsize, 1)
    t.shape = (c_int64 * max(a.ndim, 1))(*a.shape)
    t.strides = (c_int64 * max(a.ndim, 1))(*(s // a.itemsize for s in a.strides))
    return t


def request(*, axis=1, eps=1e-5, momentum=0.1, correction=1.0, activation=None, **named):
    """A Call: arrays by name (NumPy's, or a Tensor), numbers by name."""
    call = Call(size=ctypes.sizeof(Call), axis=axis, eps=eps, momentum=momentum, correction=correction)
    if isinstance(activation, tuple):
        activation, call.slope = activation
    call.activation = ACTIVATIONS.get(activation, activation)
    for name, value in named.items():
        if name in ARRAYS:
            value = tensor(value) if isinstance(value, np.ndarray) else value
            value = value if value is None else ctypes.pointer(value)
        setattr(call, name, value)
    return call


def perform(operation, call, size=512):
    """(status, words)."""
    words = ctypes.create_string_buffer(b"untouched", size)
    status = getattr(API, operation)(ctypes.addressof(call), words, size)
    return status, words.value.decode()


def run(operation, **named):
    """A call that must succeed."""
    status, words = perform(operation, request(**named))
    assert (status, words) == (OK, "untouched")

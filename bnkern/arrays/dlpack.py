"""Objects that no array library stands behind, but whose memory can be seen: DLPack, or NumPy's array interface.

They are taken as the NumPy array (on a GPU the CuPy array) of their memory, before anything else looks at them: no
copy, and results are NumPy's (CuPy's) arrays. The view holds the exporter's memory alive. What is exported without the
flags of DLPack 1.0 cannot say whether it may be written, and is read-only, as for NumPy.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from bnkern._dtypes import Array
from bnkern._words import describe
from bnkern.arrays._base import Kind, Library, refusal

_HOST = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost: memory that the processor can read
_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
_BFLOAT = 4  # kDLBfloat
_READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY


class DLPack(Library):
    """A row of the table: no array that is computed with is of this library."""

    name = "dlpack"
    kinds = {  # noqa: RUF012
        "": Kind("objects with `__dlpack__` or `__array_interface__` alone (results: NumPy, CuPy)", ("cpu",)),
    }


def speaks(a: Any) -> bool:
    """Whether an object shows its memory by one of the two protocols, and is none of NumPy's own."""
    if a is None or isinstance(a, (np.ndarray, np.generic, type, int, float, str, tuple, list)):
        return False
    try:
        return hasattr(a, "__dlpack__") or hasattr(a, "__array_interface__")
    except Exception:  # whatever an object of the user's raises: a check will say that it is no array
        return False


def view(name: str, a: Any) -> Array:
    """The NumPy or CuPy array of an object's memory."""
    try:
        if not hasattr(a, "__dlpack__"):
            return np.asarray(a)
        device = int(a.__dlpack_device__()[0])
    except Exception as error:  # of the object's own
        got = f"{describe(a)}, whose memory cannot be seen ({error})"
        raise TypeError(f"{name}: expected an array, got {got}") from error
    if device in _HOST:
        return _on_host(name, a)
    if device in _CUDA and find_spec("cupy") is not None:
        return import_module("cupy").from_dlpack(a)
    remedy = "install CuPy" if device in _CUDA else "copy it to the CPU"
    raise refusal(name, "memory of the CPU or of a CUDA device", f"DLPack device type {device}", remedy)


def _on_host(name: str, a: Any) -> np.ndarray:
    try:
        return np.from_dlpack(a)
    except Exception as error:  # NumPy knows no bfloat16; and whatever else the object cannot export
        found = _bfloat16(name, a)
        if found is None:
            got = f"{describe(a)}, which cannot be exported ({error})"
            raise TypeError(f"{name}: expected an array that DLPack can show to NumPy, got {got}") from error
        return found


# --- bfloat16 -------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    )  # fmt: skip


class _Bits:
    """16-bit numbers for NumPy. The capsule, never renamed, frees the exporter's memory when it is collected."""

    def __init__(self, capsule: object, t: _Tensor, read_only: bool) -> None:
        self._capsule = capsule
        shape = tuple(t.shape[: t.ndim])
        strides = tuple(2 * s for s in t.strides[: t.ndim]) if t.strides else None
        self.__array_interface__ = {
            "data": ((t.data or 0) + t.byte_offset, read_only), "shape": shape, "strides": strides, "typestr": "=u2",
            "version": 3,
        }  # fmt: skip


def _bfloat16(name: str, a: Any) -> np.ndarray | None:
    """A view with ml_dtypes' bfloat16; None where that is not the exporter's dtype."""
    try:
        try:
            capsule = a.__dlpack__(max_version=(1, 0))
        except TypeError:  # an exporter from before DLPack 1.0
            capsule = a.__dlpack__()
    except Exception:
        return None
    versioned = _pointer(capsule, b"dltensor_versioned")
    if versioned is not None:
        managed = _Versioned.from_address(versioned)
        tensor, read_only = managed.tensor, bool(managed.flags & _READ_ONLY) or managed.major != 1
    else:
        plain = _pointer(capsule, b"dltensor")
        if plain is None:
            return None
        tensor, read_only = _Tensor.from_address(plain), True
    if (tensor.code, tensor.bits, tensor.lanes) != (_BFLOAT, 16, 1) or tensor.device_type not in _HOST:
        return None
    if find_spec("ml_dtypes") is None:
        raise refusal(name, "a dtype of NumPy's", "bfloat16", "install ml_dtypes, which gives NumPy that type")
    import ml_dtypes

    return np.asarray(_Bits(capsule, tensor, read_only)).view(ml_dtypes.bfloat16)


def _pointer(capsule: object, name: bytes) -> int | None:
    """The address in a capsule of this name."""
    is_valid = ctypes.pythonapi.PyCapsule_IsValid
    is_valid.restype, is_valid.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
    if not is_valid(capsule, name):
        return None
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address: int | None = get(capsule, name)
    return address

"""The functions that NumPy calls for the memory of an array (NEP 49), to call them without NumPy.

Offsets as in `PyArrayObject_fields` and `PyDataMem_Handler` of NumPy's ndarraytypes.h, which are part of its ABI.
"""

import ctypes
import sys
from typing import Any, NamedTuple

from bnkern._native import memory

POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
WORD = ctypes.sizeof(POINTER)
MEM_HANDLER = object.__basicsize__ + 9 * WORD  # data, nd, dimensions, strides, base, descr, flags, weakreflist, buffer
ALLOCATOR = 127 + 1  # name, version; then context and four functions


class Allocator(NamedTuple):
    """Each function takes the context first."""

    context: int
    malloc: Any
    calloc: Any
    realloc: Any
    free: Any


def of(array):
    """Of the array's own memory. The functions release the GIL, as ctypes' do."""
    assert sys.implementation.name == "cpython"
    assert array.flags.owndata
    capsule = ctypes.cast(id(array) + MEM_HANDLER, ctypes.POINTER(ctypes.py_object))[0]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = POINTER, (ctypes.py_object, ctypes.c_char_p)
    context, *functions = (POINTER * 5).from_address(get(capsule, b"mem_handler") + ALLOCATOR)
    kinds = (
        ctypes.CFUNCTYPE(POINTER, POINTER, SIZE),
        ctypes.CFUNCTYPE(POINTER, POINTER, SIZE, SIZE),
        ctypes.CFUNCTYPE(POINTER, POINTER, POINTER, SIZE),
        ctypes.CFUNCTYPE(None, POINTER, POINTER, SIZE),
    )
    return Allocator(context, *(kind(function) for kind, function in zip(kinds, functions, strict=True)))


def patience():
    """Seconds after which the pool gives back what is kept; its `value` may be set."""
    library = ctypes.CDLL(sys.modules[memory.pool_state.__module__].__file__)
    return ctypes.c_int64.in_dll(library, "bnkern_pool_patience")

"""What a single argument may be: dtype, namespace, number. `_check` is made of these and of `_kinds` and `_memory`.

Errors read "argument: expected this, got that": TypeError for the wrong kind of thing, ValueError for the
wrong one.
"""

from __future__ import annotations

import math
import numbers
import operator
import reprlib
from typing import Any, NamedTuple

import numpy as np

from bnkern._types import Array


class DType(NamedTuple):
    """What the library knows about a floating-point type."""

    itemsize: int
    ready: bool  # whether x may have it yet


# Every dtype that is, or is to be, taken: switching one on is turning its False into True.
DTYPES = {
    "float32": DType(4, True),
    "float64": DType(8, True),
    "float16": DType(2, True),
    "bfloat16": DType(2, True),
}
READY = tuple(name for name, d in DTYPES.items() if d.ready)
PER_CHANNEL = ("float32", "float64")  # weight, bias, statistics: these, or x's own


def dtype_name(dtype: Any) -> str:
    """`float32` for NumPy's (in either byte order), `torch.float32` and every other library's alike."""
    if isinstance(dtype, np.dtype):
        return dtype.type.__name__  # not .name: where long double is double, that is called float64
    return str(dtype).rpartition(".")[2]


def native(dtype: Any) -> Any:
    """The dtype in this machine's byte order, as all results are."""
    return dtype if not isinstance(dtype, np.dtype) or dtype.isnative else dtype.newbyteorder("=")


def describe(value: Any) -> str:
    """The "got ..." of an error: short, whatever is handed in."""
    if value is None:
        return "None"
    name = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{name} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{name} {reprlib.repr(value)}"


# --- namespaces -----------------------------------------------------------------------------------


def namespace(a: Array) -> Any:
    """The array API namespace of an array."""
    import array_api_compat

    return array_api_compat.array_namespace(a)


def widest(xp: Any, a: Array) -> Any:
    """The dtype for sums and statistics: float64 where library and device have it (JAX by default has not)."""
    import array_api_compat

    device = array_api_compat.device(a)
    if getattr(device, "type", None) == "mps":  # PyTorch's answer is the same for all devices, and this one has none
        return xp.float32
    return xp.__array_namespace_info__().dtypes(device=device, kind="real floating").get("float64", xp.float32)


# --- numbers --------------------------------------------------------------------------------------


_FAR = 1e308


def real(name: str, value: Any) -> float:
    """A finite real number; text, booleans and arrays are none."""
    if (type(value) is float or type(value) is int) and -_FAR < value < _FAR:
        return float(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a real number, got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    return number


def integer(name: str, value: Any, low: int | None = None) -> int:
    """An integer of 64 bits, not below `low`; True and 2.0 are none."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {describe(value)}") from None
    if low is not None and number < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {number}")
    if abs(number) >= 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {describe(number)}")
    return number

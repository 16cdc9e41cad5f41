"""What a single argument may be: kind of array, dtype, number, memory. `_check` is made of these.

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


# --- kinds of array -------------------------------------------------------------------------------

_kinds: dict[type, str] = {np.ndarray: "numpy"}


def kind(name: str, a: Any) -> str:
    """The library an array belongs to ("numpy", "torch", "jax.numpy" ...), looked up once per type."""
    found = _kinds.get(type(a))
    if found is None:
        found = _kinds[type(a)] = _find_kind(name, a)
    return found


def _find_kind(name: str, a: Any) -> str:
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name}: expected a plain array, got {type(a).__name__} (it has its own arithmetic)")
    if isinstance(a, np.ndarray):
        return "numpy"
    if hasattr(a, "shape") and not isinstance(a, np.generic):
        import array_api_compat  # here, so that NumPy users never load it

        if array_api_compat.is_array_api_obj(a):
            return namespace(a).__name__.removeprefix("array_api_compat.")
    raise TypeError(f"{name}: expected an array (NumPy's or another array API library's), got {describe(a)}")


def namespace(a: Array) -> Any:
    """The array API namespace of an array."""
    import array_api_compat

    return array_api_compat.array_namespace(a)


def widest(xp: Any, a: Array) -> Any:
    """The dtype for sums and statistics: float64 where the library has it (JAX by default has not)."""
    import array_api_compat

    has = xp.__array_namespace_info__().dtypes(device=array_api_compat.device(a), kind="real floating")
    return has.get("float64", xp.float32)


def same_kind(name: str, a: Any, ref_name: str, ref: Array) -> None:
    """`a` must come from the library, and live on the device, of `ref`."""
    got, expected = kind(name, a), kind(ref_name, ref)
    if got != expected:
        raise TypeError(f"{name}: expected an array of {expected}, as {ref_name} is, got one of {got}")
    if got in ("numpy", "jax.numpy"):  # NumPy has one device; JAX places and shards arrays by its own rules
        return
    import array_api_compat

    here, there = array_api_compat.device(a), array_api_compat.device(ref)
    if here != there:
        raise TypeError(f"{name}: expected an array on {there}, where {ref_name} is, got one on {here}")


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


# --- memory (NumPy's: of other libraries only identity is known) ----------------------------------


def writable(name: str, a: Array, remedy: str) -> None:
    """`a` can be written, and each of its elements has a place of its own."""
    if kind(name, a) != "numpy":
        import array_api_compat

        if not array_api_compat.is_writeable_array(a):
            raise ValueError(f"{name}: expected an array that can be written, got {describe(a)}; {remedy}")
    elif a.flags.carray:
        return
    elif not a.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written, got a read-only one; {remedy}")
    elif _folded(a):
        got = f"strides {a.strides} for shape {a.shape} (a broadcast?)"
        raise ValueError(f"{name}: expected one place in memory per element, got {got}; {remedy}")


def _folded(a: np.ndarray) -> bool:
    """Whether elements may lie on each other: sorted by stride, an axis must step over all finer ones."""
    extent = a.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < extent:
            return a.size > 0
        extent += stride * (n - 1)
    return False


def shared(a: Array | None, b: Array | None) -> bool:
    """Whether two arrays have a byte in common. Doubt (strides too wild to decide) counts as yes."""
    if a is b:
        return a is not None
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    if a.base is None and b.base is None:  # each owns its memory
        return False
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_places(a: Array, b: Array) -> bool:
    """Whether every element of `a` lies exactly where its partner in `b` lies; their shapes are equal."""
    if a is b:
        return True
    steps = [[s for s, n in zip(v.strides, v.shape, strict=True) if n > 1] for v in (a, b)]
    starts = [v.__array_interface__["data"][0] for v in (a, b)]
    return starts[0] == starts[1] and steps[0] == steps[1] and a.dtype == b.dtype

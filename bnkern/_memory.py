"""Where arrays lie: whether one can be written, and whether two have memory in common.

NumPy answers such questions from address, shape and strides alone, so arrays of other libraries are shown to it by
those, on whatever device the address is: `_shadow` makes NumPy arrays that must never be read.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bnkern._args import describe
from bnkern._kinds import kind, kind_of
from bnkern._types import Array


def writable(name: str, a: Array, remedy: str) -> None:
    """`a` can be written, and each of its elements has a place of its own."""
    library = kind(name, a)
    if library == "numpy":
        if a.flags.carray:
            return
        if not a.flags.writeable:
            raise ValueError(f"{name}: expected an array that can be written, got a read-only one; {remedy}")
    elif library == "torch":
        if a.is_inference() and not sys.modules["torch"].is_inference_mode_enabled():
            expected, got = "a tensor that can be written here", "an inference tensor outside torch.inference_mode()"
            raise ValueError(f"{name}: expected {expected}, got {got}; {remedy}")
        if a.is_contiguous():
            return
    else:
        import array_api_compat

        if not kind_of(a).writable or not array_api_compat.is_writeable_array(a):
            raise ValueError(f"{name}: expected an array that can be written, got {describe(a)}; {remedy}")
    lies = _shadow(a)
    if lies is not None and _folded(lies):
        got = f"strides {lies.strides} in bytes for shape {lies.shape} (a broadcast?)"
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
    if type(a) is np.ndarray and type(b) is np.ndarray and a.base is None and b.base is None:
        return False  # each owns its memory
    if hasattr(a, "data_ptr") and hasattr(b, "data_ptr") and not _near(a, b):
        return False
    x, y = _shadow(a), _shadow(b)
    if x is None or y is None or not np.may_share_memory(x, y):
        return False
    try:
        return np.shares_memory(x, y, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_places(a: Array, b: Array) -> bool:
    """Whether every element of `a` lies exactly where its partner in `b` lies; their shapes are equal."""
    if a is b:
        return True
    x, y = _shadow(a), _shadow(b)
    if x is None or y is None:
        return False
    steps = [[s for s, n in zip(v.strides, v.shape, strict=True) if n > 1] for v in (x, y)]
    starts = [v.__array_interface__["data"][0] for v in (x, y)]
    return starts[0] == starts[1] and steps[0] == steps[1] and a.dtype == b.dtype


def _near(a: Any, b: Any) -> bool:
    """Whether two PyTorch tensors may have memory in common, by a quick look."""
    if a.device.type not in ("cpu", "cuda"):  # elsewhere (MPS) a pointer is a handle, and says which storage it is
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    (start, end), (other_start, other_end) = _span(a), _span(b)
    return start < other_end and other_start < end


def _span(t: Any) -> tuple[int, int]:
    """The addresses that a PyTorch tensor, whose strides are never negative, lies between."""
    start = t.data_ptr()
    if t.is_contiguous():
        return start, start + t.nbytes
    reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return start, start + (reach + 1) * t.element_size()


class _Memory:
    """Memory described to NumPy, which asks for nothing else."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, typestr: str) -> None:
        description = {"data": (address, True), "shape": shape, "strides": strides, "typestr": typestr, "version": 3}
        self.__array_interface__ = description


def _shadow(a: Any) -> np.ndarray | None:
    """A NumPy array with a's address, shape and strides; of what has none to show, or no elements, None."""
    if isinstance(a, np.ndarray):
        return a
    if a is None or 0 in a.shape:
        return None
    if hasattr(a, "data_ptr"):  # PyTorch
        strides = tuple(s * a.element_size() for s in a.stride())
        return np.asarray(_Memory(a.data_ptr(), tuple(a.shape), strides, f"|V{a.element_size()}"))
    cuda = getattr(a, "__cuda_array_interface__", None)
    if cuda is not None:
        return np.asarray(_Memory(cuda["data"][0], cuda["shape"], cuda.get("strides"), cuda["typestr"]))
    try:
        return np.from_dlpack(a)  # what has no address for NumPy raises: of these, identity alone is known
    except (AttributeError, BufferError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None

"""Where arrays lie: whether one can be written, and whether two have memory in common.

NumPy answers such questions from address, shape and strides alone, so arrays of other libraries are shown to it by
those (`Library.memory`), on whatever device the address is.
"""

from __future__ import annotations

import numpy as np

from bnkern._dtypes import Array
from bnkern.arrays import known_library, library_of
from bnkern.arrays._base import not_writable


def writable(name: str, a: Array, remedy: str) -> None:
    """`a` can be written, and each of its elements has a place of its own."""
    library = library_of(name, a)
    row = library.kinds.get(library.place(a)) or library.kinds[""]
    if not row.writable:
        not_writable(name, a, remedy)
    if library.writable(name, a, remedy):
        return
    lies = library.memory(a)
    if lies is not None and folded(lies):
        got = f"strides {lies.strides} in bytes for shape {lies.shape} (a broadcast?)"
        raise ValueError(f"{name}: expected one place in memory per element, got {got}; {remedy}")


def folded(a: np.ndarray) -> bool:
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
    if a is None or b is None:
        return False
    library = known_library(a)
    if known_library(b) is library and library.apart(a, b):
        return False
    x, y = _memory(a), _memory(b)
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
    x, y = _memory(a), _memory(b)
    if x is None or y is None:
        return False
    steps = [[s for s, n in zip(v.strides, v.shape, strict=True) if n > 1] for v in (x, y)]
    starts = [v.__array_interface__["data"][0] for v in (x, y)]
    return starts[0] == starts[1] and steps[0] == steps[1] and a.dtype == b.dtype


def _memory(a: Array) -> np.ndarray | None:
    return None if 0 in a.shape else known_library(a).memory(a)

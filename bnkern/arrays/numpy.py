"""NumPy arrays: what the CPU kernels take as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._dtypes import Array
from bnkern.arrays._base import Kind, Library


class NumPy(Library):
    name = "numpy"
    kinds = {"": Kind("NumPy", ("cpu",))}  # noqa: RUF012

    def devices(self, a: Array, ref: Array) -> tuple[Any, Any]:
        return None, None  # there is one

    def writable(self, name: str, a: Array, remedy: str) -> bool:
        if not a.flags.writeable:
            raise ValueError(f"{name}: expected an array that can be written, got a read-only one; {remedy}")
        return bool(a.flags.carray)

    def memory(self, a: Array) -> np.ndarray | None:
        return a

    def apart(self, a: Array, b: Array) -> bool:
        return type(a) is np.ndarray and type(b) is np.ndarray and a.base is None and b.base is None  # owners

    def widest(self, a: Array) -> Any:
        return np.float64

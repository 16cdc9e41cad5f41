"""CuPy arrays: what the GPU kernels take as they are."""

from __future__ import annotations

import numpy as np

from bnkern._dtypes import Array
from bnkern.arrays._base import Described, Kind, Library


class CuPy(Library):
    name = "cupy"
    kinds = {"": Kind("CuPy", ("cuda",))}  # noqa: RUF012
    from_numpy = "cupy.asarray"

    def memory(self, a: Array) -> np.ndarray | None:
        return cuda_memory(a.__cuda_array_interface__)


def cuda_memory(cuda: dict[str, object]) -> np.ndarray:
    """Memory that a GPU array describes, as an array that must never be read."""
    data: tuple[int, bool] = cuda["data"]  # type: ignore[assignment]
    return np.asarray(Described(data[0], cuda["shape"], cuda.get("strides"), cuda["typestr"]))  # type: ignore[arg-type]

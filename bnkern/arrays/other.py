"""Any other library that follows the array API standard, by that standard alone."""

from __future__ import annotations

import numpy as np

from bnkern._dtypes import PER_CHANNEL, Array
from bnkern.arrays._base import Kind, Library
from bnkern.arrays.cupy import cuda_memory


class Other(Library):
    kinds = {"": Kind("others with an array API namespace", ("array_api",), dtypes=PER_CHANNEL)}  # noqa: RUF012

    def __init__(self, name: str = "") -> None:
        self.name = name

    def memory(self, a: Array) -> np.ndarray | None:
        cuda = getattr(a, "__cuda_array_interface__", None)
        return super().memory(a) if cuda is None else cuda_memory(cuda)


class Sparse(Library):
    name = "sparse"
    refuses = True
    kinds = {"": Kind("sparse", (), refused="batch normalisation makes it dense: densify it first")}  # noqa: RUF012

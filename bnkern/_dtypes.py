"""The floating-point types that are taken, by name, whatever library they come from."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

# NumPy, CuPy, PyTorch, JAX, Dask ...: whatever follows the array API standard. They share no static type.
Array: TypeAlias = Any

ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}  # of the dtypes that x may have
DTYPES = tuple(ITEMSIZE)
PER_CHANNEL = ("float32", "float64")  # weight, bias, statistics: these, or x's own


def dtype_name(dtype: Any) -> str:
    """`float32` for NumPy's (in either byte order), `torch.float32` and every other library's alike."""
    if isinstance(dtype, np.dtype):
        return dtype.type.__name__  # not .name: where long double is double, that is called float64
    return str(dtype).rpartition(".")[2]


def native(dtype: Any) -> Any:
    """The dtype in this machine's byte order, as all results are."""
    return dtype if not isinstance(dtype, np.dtype) or dtype.isnative else dtype.newbyteorder("=")


def namespace(a: Array) -> Any:
    """The array API namespace of an array."""
    import array_api_compat  # here, so that NumPy users never load it

    return array_api_compat.array_namespace(a)


def device_of(a: Array) -> Any:
    """The device of an array of any library."""
    import array_api_compat

    return array_api_compat.device(a)

"""bnkern: batch normalisation (arXiv 1502.03167) as a kernel library.

Plain functions on arrays: training forward, backward and inference, whole or in parts. NumPy arrays, PyTorch
tensors, JAX and Dask arrays in CPU memory run on compiled kernels, CuPy arrays and CUDA tensors on kernels for their
GPU, arrays of other array API libraries by their own library; results have x's type, dtype and device. See
`help(bnkern.batch_norm_train)` to begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnkern._api.backward import batch_norm_backward
from bnkern._api.deployment import fold_batch_norm
from bnkern._api.forward import batch_norm_inference, batch_norm_train
from bnkern._api.layer import BatchNorm
from bnkern._api.parts import backward_apply, backward_reduce, batch_stats, merge_stats, update_running
from bnkern._api.vjp import batch_norm_vjp
from bnkern._dtypes import Array
from bnkern._pool import MemoryPool, get_default_memory_pool
from bnkern._threads import get_num_threads, set_num_threads, threads
from bnkern._types import BatchNormGrads, BatchStats, GradSums

if TYPE_CHECKING:
    from bnkern._build import VERSION as __version__
    from bnkern._c_api import get_include
    from bnkern._config import show_config
    from bnkern._explain import Explanation, explain

__all__ = [
    "Array",
    "BatchNorm",
    "BatchNormGrads",
    "BatchStats",
    "Explanation",
    "GradSums",
    "MemoryPool",
    "__version__",
    "backward_apply",
    "backward_reduce",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_train",
    "batch_norm_vjp",
    "batch_stats",
    "explain",
    "fold_batch_norm",
    "get_default_memory_pool",
    "get_include",
    "get_num_threads",
    "merge_stats",
    "set_num_threads",
    "show_config",
    "threads",
    "update_running",
]


def __getattr__(name: str) -> Any:
    """What calculations do without is loaded when it is asked for."""
    if name in ("explain", "Explanation"):
        from bnkern import _explain

        return getattr(_explain, name)
    if name == "show_config":
        from bnkern._config import show_config

        return show_config
    if name in ("get_include", "_C_API_1"):
        from bnkern import _c_api

        return getattr(_c_api, name)
    if name == "__version__":
        from bnkern._build import VERSION

        return VERSION
    raise AttributeError(f"module 'bnkern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""bnkern: batch normalisation (arXiv 1502.03167) as a kernel library.

Plain functions on arrays: training forward, backward and inference, whole or in parts. NumPy arrays, PyTorch
tensors, JAX and Dask arrays in CPU memory run on compiled kernels, arrays of other array API libraries by that
standard; what comes back is of the kind that went in. See `help(bnkern.batch_norm_train)` to
begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnkern._api import (
    backward_apply,
    backward_reduce,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_train,
    batch_stats,
    fold_batch_norm,
    merge_stats,
    update_running,
)
from bnkern._pool import MemoryPool, get_default_memory_pool
from bnkern._threads import get_num_threads, set_num_threads, threads
from bnkern._types import BatchNormGrads, BatchStats, GradSums

if TYPE_CHECKING:
    from bnkern._build import VERSION as __version__
    from bnkern._config import explain, show_config

__all__ = [
    "BatchNormGrads",
    "BatchStats",
    "GradSums",
    "MemoryPool",
    "__version__",
    "backward_apply",
    "backward_reduce",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_train",
    "batch_stats",
    "explain",
    "fold_batch_norm",
    "get_default_memory_pool",
    "get_num_threads",
    "merge_stats",
    "set_num_threads",
    "show_config",
    "threads",
    "update_running",
]


def __getattr__(name: str) -> Any:
    """What calculations do without is loaded when it is asked for."""
    if name in ("explain", "show_config"):
        from bnkern import _config

        return getattr(_config, name)
    if name == "__version__":
        from bnkern._build import VERSION

        return VERSION
    raise AttributeError(f"module 'bnkern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Statistics across parts and over time: merging, and the running update, for arrays of any library.

Merging follows Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", with a pivot:
means are compared with the first part's, so that what all parts have in common never enters a rounding. Parts
without values are skipped, whatever their mean and var hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnkern._args import namespace, native, widest
from bnkern._native import vectors as _vectors
from bnkern._types import Array, BatchStats

_FLOAT32 = np.dtype(np.float32)


def merge(parts: list[BatchStats]) -> BatchStats:
    """Mean, variance and count of all values that the parts stand for."""
    full = [part for part in parts if part.count]
    count = sum(part.count for part in full)
    first = (full or parts)[0]
    xp = namespace(first.mean)
    wide = widest(xp, first.mean)
    if not full:
        zeros = xp.zeros_like(first.mean, dtype=wide)
        return BatchStats(zeros, xp.zeros_like(zeros), 0)
    if len(full) == 1:  # not n * var / n, which rounds
        return BatchStats(xp.astype(first.mean, wide), xp.astype(first.var, wide), count)

    with np.errstate(all="ignore"):  # NaN and Inf stay in their channel, silently
        means = [xp.astype(part.mean, wide) for part in full]
        counts = [float(part.count) for part in full]
        pivot = means[0]
        mean = pivot + sum(n * (m - pivot) for n, m in zip(counts, means, strict=True)) / float(count)
        m2 = sum(
            n * (xp.astype(part.var, wide) + (m - mean) ** 2)
            for n, m, part in zip(counts, means, full, strict=True)
        )
        return BatchStats(mean, m2 / float(count), count)


def corrected(var: Array, count: int, correction: float) -> Array:
    """The population variance as the running variance takes it in: var * count / (count - correction)."""
    if correction == 0:
        return var
    with np.errstate(all="ignore"):
        return var * (count / (count - correction))


def blend(running: Array, value: Array, momentum: float) -> Array:
    """A new array: (1 - momentum) * running + momentum * value in float64, rounded once."""
    xp = namespace(running)
    wide = widest(xp, running)
    with np.errstate(all="ignore"):  # what is too large for a float32 buffer is Inf there, silently
        new = (1.0 - momentum) * xp.astype(running, wide) + momentum * xp.astype(value, wide)
        return cast(new, running.dtype)


def update(
    running_mean: Array, running_var: Array, stats: BatchStats, momentum: float, correction: float
) -> tuple[Array, Array]:
    """New running statistics; copies of the old ones where the batch had no elements."""
    if stats.count == 0:
        xp = namespace(running_mean)
        return xp.astype(running_mean, running_mean.dtype), xp.astype(running_var, running_var.dtype)
    var = corrected(stats.var, stats.count, correction)
    return blend(running_mean, stats.mean, momentum), blend(running_var, var, momentum)


def narrowed(dtype: Any, narrow: Callable[[Array, Any], Array], *vectors: Array | None) -> list[Array | None]:
    """Vectors in the dtype of a result (in native order), by `narrow` where they are not."""
    if dtype is not _FLOAT32:  # the common case in no time
        dtype = native(dtype)
    if isinstance(dtype, np.dtype):
        plain = _vectors.cast_each(dtype, vectors)
        if plain is not None:
            return plain
    return [v if v is None or v.dtype is dtype or v.dtype == dtype else narrow(v, dtype) for v in vectors]


def cast(v: Array, dtype: Any) -> Array:
    """A vector in another dtype; values too large for it are Inf, silently."""
    if isinstance(v, np.ndarray):
        return _vectors.cast(v, np.dtype(dtype))
    return namespace(v).astype(v, dtype)

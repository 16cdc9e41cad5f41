"""Numbers per channel: statistics merged, running ones updated, a normalisation folded. One formula for all libraries.

Arrays in CPU memory, of whatever library, come here as NumPy's (`NUMPY`), so that their results are the same bits; all
others in their own namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bnkern._dtypes import Array, native
from bnkern._native import vectors as _native
from bnkern._numbers import traced

Part = tuple[Array, Array, int]  # mean, variance, count

_FLOAT64 = np.dtype(np.float64)


class Arithmetic(NamedTuple):
    """What the formulas are computed with."""

    xp: Any  # the namespace
    wide: Callable[[Array], Array]  # as float64, or the widest that there is; always a new array
    cast: Callable[[Array, Any], Array]  # to a dtype: rounded once, Inf where it is too large


def _cast(a: np.ndarray, dtype: Any) -> np.ndarray:
    """By the kernels' conversions, whatever the calling thread's floating-point mode is."""
    flat = _native.cast(a.reshape(-1), np.dtype(dtype))
    return flat.reshape(a.shape)


NUMPY = Arithmetic(np, lambda a: _cast(a, np.float64), _cast)


def merge(by: Arithmetic, parts: list[Part]) -> Part:
    """Mean, variance and count of all values that the parts stand for: Chan, Golub and LeVeque (1983).

    Means are compared with the first part's, so that what all parts have in common never enters a rounding. Parts
    without values are skipped, whatever their mean and var hold.
    """
    if any(traced(n) for _, _, n in parts):
        return _merge_of_traced(by, parts)
    full = [part for part in parts if part[2]]
    total = sum(n for _, _, n in full)
    if not full:
        zeros = by.xp.zeros_like(by.wide(parts[0][0]))
        return zeros, by.xp.zeros_like(zeros), 0
    if len(full) == 1:  # not n * var / n, which rounds
        return by.wide(full[0][0]), by.wide(full[0][1]), total

    with np.errstate(all="ignore"):  # NaN and Inf stay in their channel, silently
        means, variances = _rows(by, [mean for mean, _, _ in full]), _rows(by, [var for _, var, _ in full])
        counts = [float(n) for _, _, n in full]
        first = means[0, ...]
        pivot = by.xp.where(by.xp.isfinite(first), first, by.xp.zeros_like(first))  # Inf - Inf would make Inf NaN
        mean = pivot + _weighted(by, counts, means - pivot) / float(total)
        m2 = _weighted(by, counts, variances + (means - mean) ** 2)
        return mean, m2 / float(total), total


def _merge_of_traced(by: Arithmetic, parts: list[Part]) -> Part:
    """The same where JAX traces counts: a part may turn out to have none, and must then have no influence."""
    xp = by.xp
    total = sum(n for _, _, n in parts)
    zeros = xp.zeros_like(by.wide(parts[0][0]))
    means = [xp.where(n > 0, by.wide(mean), zeros) for mean, _, n in parts]
    spreads = [xp.where(n > 0, by.wide(var), zeros) for _, var, n in parts]
    shares = [xp.astype(xp.asarray(n), zeros.dtype) / xp.maximum(xp.asarray(total), xp.asarray(1)) for _, _, n in parts]
    pivot = zeros
    for m, share in zip(reversed(means), reversed(shares), strict=True):
        pivot = xp.where((share > 0) & xp.isfinite(m), m, pivot)  # the first part's mean, among those that have values
    mean = pivot + sum(xp.where(w > 0, w * (m - pivot), zeros) for w, m in zip(shares, means, strict=True))
    var = sum(
        xp.where(w > 0, w * (s + (m - mean) ** 2), zeros) for w, m, s in zip(shares, means, spreads, strict=True)
    )
    return mean, var, total


def _rows(by: Arithmetic, vectors: list[Array]) -> Array:
    """Wide vectors as rows of one array: a thousand parts cost a few operations, not a few thousand."""
    if by is NUMPY:
        return np.array([v if v.dtype is _FLOAT64 else by.wide(v) for v in vectors])
    return by.xp.stack([by.wide(v) for v in vectors])


def _weighted(by: Arithmetic, weights: list[float], rows: Array) -> Array:
    """The sum of the rows, each times its weight, one after another."""
    if by is NUMPY:
        rows *= np.array(weights)[:, None]  # a result of the formula's, written nowhere else
        return np.add.reduce(rows, axis=0)
    return sum(n * rows[i, ...] for i, n in enumerate(weights))


def ema(by: Arithmetic, running: Array, value: Array, momentum: float, scale: float) -> Array:
    """A new array: (1 - momentum) * running + momentum * (value * scale), rounded once."""
    with np.errstate(all="ignore"):  # what is too large for a float32 buffer is Inf there, silently
        new = (1.0 - momentum) * by.wide(running) + momentum * (by.wide(value) * scale)
        return by.cast(new, native(running.dtype))


def fold(
    by: Arithmetic, conv_weight: Array, conv_bias: Array | None, mean: Array, var: Array, weight: Array | None,
    bias: Array | None, eps: float, axis: int, groups: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Inference batch normalisation in the linear operation before it: arXiv 1502.03167, end of section 3.1.

    With s = weight / sqrt(running_var + eps), batch_norm(conv(x)) is a convolution again, whose weight is W * s (per
    output channel) and whose bias is (conv_bias - running_mean) * s + bias.
    """
    with np.errstate(all="ignore"):
        scale = 1.0 / by.xp.sqrt(by.wide(var) + eps)
        if weight is not None:
            scale = by.wide(weight) * scale
        shift = -by.wide(mean)
        if conv_bias is not None:
            shift = by.wide(conv_bias) + shift
        shift = shift * scale
        if bias is not None:
            shift = shift + by.wide(bias)
        folded = _scaled(by.xp, by.wide(conv_weight), scale, axis, groups)
        dtype = native(conv_weight.dtype)
        return by.cast(folded, dtype), by.cast(shift, dtype)


def _scaled(xp: Any, w: Array, scale: Array, axis: int, groups: int) -> Array:
    """Each output channel of w times its scale."""
    shape = tuple(w.shape)
    rest = (1,) * (len(shape) - 2)
    if axis == 1 and groups > 1:
        # A transposed convolution's weight is (in, out / groups, ...): output channel c of group g meets only
        # the g-th slice of the inputs.
        grouped = xp.reshape(w, (groups, shape[0] // groups, *shape[1:]))
        factors = xp.reshape(scale, (groups, 1, shape[1], *rest))
        return xp.reshape(grouped * factors, shape)
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return w * xp.reshape(scale, tuple(along))

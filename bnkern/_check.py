"""The one place that validates calls. Nothing has been written when a check fails, nothing is checked below.

Each public function has its check here, which takes the user's arguments and returns a `Problem` with
whatever else was made of them. A valid small call must pass in about a microsecond: hence the memo on
`_problem`, and a first test for the common case (a plain NumPy array of the right shape and type) before the
long one that finds the words.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from bnkern._args import PER_CHANNEL, READY, describe, dtype_name, integer, real
from bnkern._kinds import kind, same_kind
from bnkern._memory import same_places, shared, writable
from bnkern._native import checks as fast
from bnkern._types import Array, BatchStats

_ndarray = np.ndarray
_NEEDS = frozenset(("x", "weight", "bias", "residual"))
_USUAL = ("x", "weight", "bias")
_USUAL_SET = frozenset(_USUAL)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a call is about, without its data: safe to make from lazy arrays, never changed."""

    shape: tuple[int, ...]
    axis: int  # of the channels, not negative
    channels: int
    count: int  # values per channel; 0 when x has no element at all
    size: int
    dtype: str  # of x and of all that has its shape: a key of DTYPES
    eps: float
    relu: bool
    vector: tuple[int]  # the shape (channels,) of everything that is per channel


@lru_cache(maxsize=1024, typed=True)
def _problem(shape: tuple[int, ...], dtype: Any, axis: Any, eps: Any, activation: Any) -> Problem:
    name = dtype_name(dtype)
    if name not in READY:
        raise TypeError(f"x: expected dtype {' or '.join(READY)}, got {dtype}")
    if len(shape) < 2:
        raise ValueError(f"x: expected at least 2 dimensions (batch and channels), got shape {tuple(shape)}")
    if not all(isinstance(n, int) for n in shape):
        raise ValueError(f"x: expected a known shape, got {tuple(shape)} (Dask: x.compute_chunk_sizes() finds it)")
    ndim, number = len(shape), integer("axis", axis)
    if not -ndim <= number < ndim:
        expected = f"an axis of x, {-ndim} to {ndim - 1} for shape {tuple(shape)}"
        raise ValueError(f"axis: expected {expected}, got {number}")
    eps = real("eps", eps)
    if eps < 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    if activation is not None and not isinstance(activation, str):
        raise TypeError(f"activation: expected None or 'relu', got {describe(activation)}")
    if activation not in (None, "relu"):
        raise ValueError(f"activation: expected None or 'relu', got {activation!r}")
    channels, size = shape[number], prod(shape)
    count = size // channels if size else 0
    relu = activation == "relu"
    return Problem(tuple(shape), number % ndim, channels, count, size, name, eps, relu, (channels,))


def problem(x: Array, axis: Any = 1, eps: Any = 0.0, activation: Any = None) -> Problem:
    """The Problem of x, the same object for the same metadata."""
    if type(x) is not _ndarray:
        kind("x", x)
    try:
        return _problem(x.shape, x.dtype, axis, eps, activation)
    except TypeError:  # from _problem itself, or because an argument has no hash: then _problem speaks now
        pass
    return _problem.__wrapped__(x.shape, x.dtype, axis, eps, activation)


# --- arrays beside x ------------------------------------------------------------------------------


def _vectors(p: Problem, x: Array, names: tuple[str, ...], required: int, *vectors: Any) -> None:
    """Per-channel arrays: (C,), float32, float64 or x's dtype. All but the first `required` may be None."""
    if fast.vectors(x, p.channels, required, *vectors):
        return
    for i, (name, v) in enumerate(zip(names, vectors, strict=True)):
        if v is not None or i < required:
            same_kind(name, v, "x", x)
            vector(name, v, p.vector, f"the channels of x, shape {p.shape} with axis={p.axis}", p.dtype)


def vector(name: str, v: Array, shape: tuple[int, ...], meaning: str, *also: str) -> None:
    """One per-channel array: of this shape, and float32, float64 or a dtype in `also`."""
    if tuple(v.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} ({meaning}), got shape {tuple(v.shape)}")
    allowed = dict.fromkeys((*PER_CHANNEL, *also))
    if dtype_name(v.dtype) not in allowed:
        raise TypeError(f"{name}: expected dtype {' or '.join(allowed)}, got {v.dtype}")


def _like_x(p: Problem, x: Array, name: str, a: Any) -> None:
    """An array of x's kind, shape and dtype (in whatever byte order and strides)."""
    if fast.twin(x, a):
        return
    same_kind(name, a, "x", x)
    if tuple(a.shape) != p.shape:
        raise ValueError(f"{name}: expected shape {p.shape}, as x has, got shape {tuple(a.shape)}")
    if dtype_name(a.dtype) != p.dtype:
        raise TypeError(f"{name}: expected dtype {p.dtype}, as x has, got {a.dtype}")


def _out(p: Problem, x: Array, out: Any, places: dict[str, Any], vectors: dict[str, Any]) -> None:
    """`out` is like x, can be written, and is exactly one of `places` or shares no memory with an input."""
    _like_x(p, x, "out", out)
    if fast.output(out, *places.values(), *vectors.values()):
        return
    writable("out", out, "leave out=None for a new array")
    for name, a in places.items():
        if a is not None and a is not out and shared(out, a) and not same_places(out, a):
            raise ValueError(f"out: expected {name} itself or memory apart from it, got an overlap in part")
    _apart("out", out, vectors)


def _apart(name: str, written: Array, read: dict[str, Any]) -> None:
    for other, a in read.items():
        if a is not None and shared(written, a):
            raise ValueError(f"{name}: expected memory of its own, got memory shared with {other}")


def statistics(stats: Any, name: str = "stats") -> tuple[Any, Any, Any]:
    """The three entries of a BatchStats or of a tuple or list like it; only their number is looked at."""
    if type(stats) is BatchStats:
        return stats
    if not isinstance(stats, (tuple, list)):
        raise TypeError(f"{name}: expected BatchStats(mean, var, count), got {describe(stats)}")
    if len(stats) != 3:
        raise ValueError(f"{name}: expected three entries (mean, var, count), got {len(stats)}")
    return stats[0], stats[1], stats[2]


_INFERENCE = ("running_mean", "running_var", "weight", "bias")
_TRAIN = ("weight", "bias", "running_mean", "running_var")
_BACKWARD = ("stats.mean", "stats.var", "weight", "bias")
_APPLY = ("stats.mean", "stats.var", "sums.sum_dy", "sums.sum_dy_xhat", "weight", "bias")

# --- forward --------------------------------------------------------------------------------------


def inference(
    x: Any, mean: Any, var: Any, weight: Any, bias: Any, axis: Any, eps: Any, activation: Any, residual: Any,
    out: Any,
) -> Problem:  # fmt: skip
    p = problem(x, axis, eps, activation)
    _vectors(p, x, _INFERENCE, 2, mean, var, weight, bias)
    if residual is not None:
        _like_x(p, x, "residual", residual)
    if out is not None:
        vectors = {"running_mean": mean, "running_var": var, "weight": weight, "bias": bias}
        _out(p, x, out, {"x": x, "residual": residual}, vectors)
    return p


def train(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, axis: Any, eps: Any, momentum: Any,
    num_batches: Any, correction: Any, activation: Any, residual: Any, out: Any,
) -> tuple[Problem, float, float]:  # fmt: skip
    """Returns the momentum as a number even where it is None, and the correction as a float."""
    p = problem(x, axis, eps, activation)
    if p.eps == 0.0:
        raise ValueError("eps: expected a number > 0 in training, where a variance may be 0, got 0")
    if p.count == 1:
        raise ValueError(
            "x: expected more than one value per channel in training, where a single one has variance 0, "
            f"got shape {p.shape} with axis={p.axis}; give a larger batch, or use batch_norm_inference"
        )
    _vectors(p, x, _TRAIN, 0, weight, bias, running_mean, running_var)
    factor, correction = factor_of(momentum, num_batches), correction_below(correction, p.count)
    if residual is not None:
        _like_x(p, x, "residual", residual)
    if out is not None:
        _out(p, x, out, {"x": x, "residual": residual}, {"weight": weight, "bias": bias})
    given = running_mean is not None or running_var is not None
    if given and not fast.running(running_mean, running_var, x, weight, bias, residual, out):
        others = {"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out}
        _running(running_mean, running_var, others)
    return p, factor, correction


def _running(running_mean: Any, running_var: Any, others: dict[str, Any]) -> None:
    """Both or none; writable; apart from each other and from all else."""
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing}: expected an array (running_mean and running_var go together), got None")
    remedy = "compute the new ones with bnkern.update_running instead"
    writable("running_mean", running_mean, remedy)
    writable("running_var", running_var, remedy)
    _apart("running_var", running_var, {"running_mean": running_mean})
    _apart("running_mean", running_mean, others)
    _apart("running_var", running_var, others)


def factor_of(momentum: Any, num_batches: Any) -> float:
    """Weight of this batch in the running statistics."""
    batches = None if num_batches is None else integer("num_batches", num_batches, low=0 if momentum is not None else 1)
    if momentum is not None:
        return real("momentum", momentum)
    if batches is None:
        raise ValueError("num_batches: expected the number of batches so far with momentum=None, got None")
    return 1 / batches


def correction_below(correction: Any, count: int) -> float:
    """The correction of the variance, below the count so that count - correction is positive."""
    number = real("correction", correction)
    if number < 0 or 0 < count <= number:
        raise ValueError(f"correction: expected a number >= 0 and below the count, {count}, got {number:g}")
    return number


# --- backward -------------------------------------------------------------------------------------


def backward(
    dy: Any, x: Any, stats: Any, weight: Any, bias: Any, axis: Any, eps: Any, frozen: Any, activation: Any,
    y: Any, needs: Any, out: Any,
) -> tuple[Problem, Any, Any, frozenset[str]]:  # fmt: skip
    """Returns the Problem, mean, var, and what is needed."""
    p = problem(x, axis, eps, activation)
    mean, var, count = statistics(stats)
    _vectors(p, x, _BACKWARD, 2, mean, var, weight, bias)
    _like_x(p, x, "dy", dy)
    if type(frozen) is not bool and not isinstance(frozen, np.bool_):
        raise TypeError(f"frozen: expected True or False, got {describe(frozen)}")
    if not frozen and (type(count) is not int or count != p.count) and integer("stats.count", count, low=0) != p.count:
        raise ValueError(
            f"stats.count: expected {p.count}, the values per channel of x, got {count}; "
            "for a part of a batch use backward_reduce and backward_apply, for running statistics frozen=True"
        )
    wanted = _wanted(needs)
    if y is not None:
        _like_x(p, x, "y", y)
    elif p.relu and "residual" in wanted:
        raise ValueError("y: expected the forward's y, whose sign the gradient of residual needs, got None")
    if out is not None:
        if "x" not in wanted:
            raise ValueError("out: expected None without 'x' in needs (out is for dx), got an array")
        vectors = {"stats.mean": mean, "stats.var": var, "weight": weight, "bias": bias}
        _out(p, x, out, {"dy": dy, "x": x, "y": y}, vectors)
        if "residual" in wanted and not p.relu and shared(out, dy):
            raise ValueError("out: expected memory apart from dy, which is to be dresidual too, got dy's")
    return p, mean, var, wanted


def _wanted(needs: Any) -> frozenset[str]:
    if type(needs) is tuple and needs == _USUAL:
        return _USUAL_SET
    if isinstance(needs, (str, bytes)) or not isinstance(needs, Collection):
        raise TypeError(f"needs: expected a collection like ('x', 'weight', 'bias'), got {describe(needs)}")
    for entry in needs:
        if not isinstance(entry, str) or entry not in _NEEDS:
            raise ValueError(f"needs: expected entries among {sorted(_NEEDS)}, got {describe(entry)}")
    return frozenset(needs)


def reduce(
    dy: Any, x: Any, stats: Any, weight: Any, bias: Any, axis: Any, eps: Any, activation: Any, y: Any
) -> tuple[Problem, Any, Any]:
    p = problem(x, axis, eps, activation)
    mean, var, count = statistics(stats)
    _vectors(p, x, _BACKWARD, 2, mean, var, weight, bias)
    _count_of_whole(p, count)
    _like_x(p, x, "dy", dy)
    if y is not None:
        _like_x(p, x, "y", y)
    return p, mean, var


def _count_of_whole(p: Problem, count: Any) -> int:
    whole = integer("stats.count", count, low=0)
    if whole < p.count:
        expected = f"at least {p.count}, the values per channel of this part"
        raise ValueError(f"stats.count: expected {expected}, got {whole}")
    return whole


def apply(
    dy: Any, x: Any, stats: Any, sums: Any, weight: Any, bias: Any, axis: Any, eps: Any, activation: Any,
    y: Any, out: Any,
) -> tuple[Problem, Any, Any, tuple[Any, Any], int]:  # fmt: skip
    p = problem(x, axis, eps, activation)
    mean, var, count = statistics(stats)
    if not isinstance(sums, (tuple, list)):
        raise TypeError(f"sums: expected GradSums(sum_dy, sum_dy_xhat), got {describe(sums)}")
    if len(sums) != 2:
        raise ValueError(f"sums: expected two entries (sum_dy, sum_dy_xhat), got {len(sums)}")
    vectors = (mean, var, sums[0], sums[1], weight, bias)
    _vectors(p, x, _APPLY, 4, *vectors)
    count = _count_of_whole(p, count)
    _like_x(p, x, "dy", dy)
    if y is not None:
        _like_x(p, x, "y", y)
    if out is not None:
        _out(p, x, out, {"dy": dy, "x": x, "y": y}, dict(zip(_APPLY, vectors, strict=True)))
    return p, mean, var, (sums[0], sums[1]), count

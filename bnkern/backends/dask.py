"""Dask arrays of NumPy chunks: graphs of calls to the CPU kernels, one per chunk and pass. Nothing is computed here.

Any chunking will do, across the channels too: x is never rechunked, what goes with it is. Statistics are taken of
each chunk and merged up Dask's tree of reductions, whose order depends on the chunks alone; so the results do not
depend on the scheduler, and agree with those of the whole to rounding (`bnkern.merge_stats`).

A call for a chunk uses as many threads as any other; where Dask's workers are threads too, `bnkern.set_num_threads`
keeps them from competing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from bnkern import _merge
from bnkern._args import native
from bnkern._check import Problem, problem
from bnkern._types import Array, BatchStats
from bnkern.backends import Backend, cpu, generic

Maybe = Array | None


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    array = sys.modules.get("dask.array")
    if array is None or not isinstance(x, array.Array):
        return f"not a Dask array but {type(x).__name__}"
    return None


# --- what is done to a chunk ----------------------------------------------------------------------


def _kernels(p: Problem) -> Backend:
    return cpu if p.size else generic


def _stats_of(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean, variance and count of a chunk in a new first axis, every axis but the channels' of length 1."""
    p = problem(x, axis)
    mean, var = _kernels(p).stats(p, x)
    return _stack(p, mean, var, np.full(p.vector, float(p.count)))


def _sums_of(
    dy: np.ndarray, x: np.ndarray, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe, axis: int,
    eps: float, activation: str | None,
) -> np.ndarray:  # fmt: skip
    p = problem(x, axis, eps, activation)
    return _stack(p, *_kernels(p).reduce(p, dy, x, mean, var, weight, bias, y))


def _stack(p: Problem, *vectors: np.ndarray) -> np.ndarray:
    shape = [1] * len(p.shape)
    shape[p.axis] = p.channels
    return np.stack(vectors).reshape(len(vectors), *shape)


def _normalised(
    x: np.ndarray, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe, axis: int, eps: float,
    activation: str | None,
) -> np.ndarray:  # fmt: skip
    p = problem(x, axis, eps, activation)
    return _kernels(p).inference(p, x, mean, var, weight, bias, residual, None)


def _gradient(
    dy: np.ndarray, x: np.ndarray, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe, sum_dy: Maybe,
    sum_dy_xhat: Maybe, axis: int, eps: float, activation: str | None, count: int, which: int,
) -> np.ndarray:  # fmt: skip
    """dx of a chunk (which=0), or the residual's gradient (which=1)."""
    p = problem(x, axis, eps, activation)
    sums = None if sum_dy is None else (sum_dy, sum_dy_xhat)
    wanted = which == 0, which == 1
    gradients: tuple[Any, Any] = _kernels(p).input_grad(
        p, dy, x, mean, var, weight, bias, y, sums, count, None, *wanted
    )
    return gradients[which]


def _merged(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Several results of `_stats_of`, laid beside each other, as one: their order is the places' in `parts`."""
    steps: list[Any] = [range(n) if a in axis else [slice(None)] for a, n in enumerate(parts.shape)]
    columns = [parts[place] for place in product(*steps)]  # (mean, var, count) by channels
    whole = _merge.merge([BatchStats(mean, var, int(count[0]) if count.size else 0) for mean, var, count in columns])
    result = np.stack([whole.mean, whole.var, np.full_like(whole.mean, float(whole.count))])
    return np.expand_dims(result, axis) if keepdims else result


# --- the graphs -----------------------------------------------------------------------------------


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    parts = _over_chunks(_stats_of, p, x, x, stacked=3)
    whole = _dask().reduction(
        parts, _as_it_is, _merged, axis=_others(p), dtype=np.float64, meta=np.empty((0, 0)), split_every=8
    )
    return whole[0], whole[1]


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
) -> Array:
    return _over_chunks(_normalised, p, x, x, mean, var, weight, bias, residual, **_options(p))


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe
) -> tuple[Array, Array]:
    parts = _over_chunks(_sums_of, p, x, dy, x, mean, var, weight, bias, y, stacked=2, **_options(p))
    sums = parts.sum(axis=_others(p), split_every=8)
    return sums[0], sums[1]


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
    sums: tuple[Array, Array] | None, count: int, out: Maybe, want_dx: bool, want_dresidual: bool,
) -> tuple[Maybe, Maybe]:  # fmt: skip
    def gradient(which: int) -> Array:
        operands = dy, x, mean, var, weight, bias, y, *(sums or (None, None))
        return _over_chunks(_gradient, p, x, *operands, count=count, which=which, **_options(p))

    return gradient(0) if want_dx else None, gradient(1) if want_dresidual else None


# The passes joined are the same in every library whose results come when they are asked for.
train = generic.in_two(stats, inference)
backward = generic.joined(reduce, input_grad)


def narrow(v: Array, dtype: Any) -> Array:
    return v.map_blocks(_merge.cast, dtype, dtype=dtype, meta=np.empty(0, dtype))


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """Never called: `bnkern._memory.writable` has refused the buffer."""
    raise AssertionError("a Dask array cannot be written")


def _over_chunks(
    function: Callable[..., Any], p: Problem, x: Array, *operands: Maybe, stacked: int = 0, **how: Any
) -> Array:
    """`function(*operands, axis=...)` of each chunk of x, to which the operands are rechunked; vectors to its channels.

    The results are like x, or with `stacked` that many in a new first axis, with one place per chunk.
    """
    axes = tuple(range(len(p.shape)))
    arguments: list[Any] = []
    for a in operands:
        if a is None:
            arguments += None, None
        elif a.ndim == 1:
            arguments += a.rechunk((x.chunks[p.axis],)), (p.axis,)
        else:
            arguments += a.rechunk(x.chunks), axes
    if not stacked:
        how |= {"dtype": native(x.dtype), "meta": x._meta}
        return _dask().blockwise(function, axes, *arguments, axis=p.axis, align_arrays=False, **how)
    how |= {"new_axes": {-1: stacked}, "adjust_chunks": {a: _one for a in axes if a != p.axis}}
    how |= {"dtype": np.float64, "meta": np.empty((0,) * (len(axes) + 1))}
    return _dask().blockwise(function, (-1, *axes), *arguments, axis=p.axis, align_arrays=False, **how)


def _one(length: int) -> int:
    return 1


def _as_it_is(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return parts


def _others(p: Problem) -> tuple[int, ...]:
    """The axes to reduce of what `_over_chunks` stacked."""
    return tuple(a + 1 for a in range(len(p.shape)) if a != p.axis)


def _options(p: Problem) -> dict[str, Any]:
    return {"eps": p.eps, "activation": "relu" if p.relu else None}


def _dask() -> Any:
    return sys.modules["dask.array"]

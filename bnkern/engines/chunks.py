"""Arrays of lazy chunks: graphs of calls to the CPU engine, one per chunk and pass. Nothing is computed here.

Statistics are taken of each chunk and merged up a tree of reductions, whose order depends on the chunks alone; so the
results do not depend on the scheduler, and agree with those of the whole to rounding (`bnkern.merge_stats`).

Where Dask's workers are threads, the calls for chunks that run side by side share the process's threads, as all calls
do (docs/threads.md).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS, Call, Problem, Results, new_call
from bnkern._dtypes import Array
from bnkern.arrays.dask import added, combined, over_chunks
from bnkern.engines import array_api, cpu
from bnkern.engines.vectors import NUMPY, merge

_OPERANDS = ("x", "dy", "residual", "y", "mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat")


def missing() -> str | None:
    return None


def run(call: Call) -> Results:
    """The passes one after another: the second one's chunks wait for what all chunks of the first gave."""
    p, x = call.problem, call.x
    mean, var, sum_dy, sum_dy_xhat = call.mean, call.var, call.sum_dy, call.sum_dy_xhat
    out = dresidual = None
    if call.passes & STATS:
        parts = over_chunks(_reduced, p, x, *_operands(new_call(p, 0, x)), passes=STATS, how=_how(call), stacked=3)
        whole = combined(parts, _merged, p)
        mean, var = whole[0], whole[1]
    if call.passes & REDUCE:
        parts = over_chunks(_reduced, p, x, *_operands(call), passes=REDUCE, how=_how(call), stacked=2)
        sums = added(parts, p)
        sum_dy, sum_dy_xhat = sums[0], sums[1]
    terms = {} if call.frozen else {"sum_dy": sum_dy, "sum_dy_xhat": sum_dy_xhat}
    given = call.replaced(mean=mean, var=var, **terms)
    if call.passes & NORMALISE or (call.passes & INPUT_GRAD and "x" in call.needs):
        out = over_chunks(_elementwise, p, x, *_operands(given), passes=call.passes, how=_how(call))
    if call.dresidual:
        masked = _how(call) | {"frozen": True, "dresidual": True}  # for dresidual alone no mean terms are wanted
        dresidual = over_chunks(_elementwise, p, x, *_operands(given), passes=INPUT_GRAD, how=masked)
    return out, *((mean, var) if call.passes & STATS else (None, None)), sum_dy, sum_dy_xhat, dresidual


def _operands(call: Call) -> list[Array | None]:
    return [getattr(call, name) for name in _OPERANDS]


def _how(call: Call) -> dict[str, Any]:
    return {"frozen": call.frozen, "count": call.count, "needs": call.needs, "dresidual": False}


# --- what is done to a chunk ----------------------------------------------------------------------


def _chunk(operands: tuple[Any, ...], problem: Problem, passes: int, how: dict[str, Any]) -> Results:
    p = problem.of_part(operands[0].shape)
    call = new_call(p, passes, operands[0])
    vars(call).update(zip(_OPERANDS, operands, strict=True))
    vars(call).update(how)
    return (cpu if p.size else array_api).run(call)


def _reduced(*operands: Any, problem: Problem, passes: int, how: dict[str, Any]) -> np.ndarray:
    """(mean, var, count) or the two sums of a chunk in a new first axis, every axis but the channels' of length 1."""
    _, mean, var, sum_dy, sum_dy_xhat, _ = _chunk(operands, problem, passes, how)
    part = problem.of_part(operands[0].shape)
    stats = mean, var, np.full(part.vector, float(part.count))
    found: Any = stats if passes & STATS else (sum_dy, sum_dy_xhat)
    shape = [1] * len(part.shape)
    shape[part.axis] = part.channels
    return np.stack(found).reshape(len(found), *shape)


def _elementwise(*operands: Any, problem: Problem, passes: int, how: dict[str, Any]) -> Array | None:
    """y or dx of a chunk, or the residual's gradient."""
    out, *_, dresidual = _chunk(operands, problem, passes & (NORMALISE | INPUT_GRAD), how)
    return dresidual if how["dresidual"] else out


def _merged(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Several results of `_reduced`, laid beside each other, as one: their order is the places' in `parts`."""
    steps: list[Any] = [range(n) if a in axis else [slice(None)] for a, n in enumerate(parts.shape)]
    columns = [parts[place] for place in product(*steps)]  # (mean, var, count) by channels
    mean, var, count = merge(NUMPY, [(m, v, int(n[0]) if n.size else 0) for m, v, n in columns])
    result = np.stack([mean, var, np.full_like(mean, float(count))])
    return np.expand_dims(result, axis) if keepdims else result


# --- numbers per channel --------------------------------------------------------------------------


cast = array_api.cast


def ema_update(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """Never called: the check of running buffers has refused them."""
    raise AssertionError("lazy arrays cannot be written")

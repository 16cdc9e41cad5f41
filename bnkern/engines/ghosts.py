"""Ghost batches on any engine: one call for each run of samples, their results side by side.

Where results can be written, each call writes its rows of the whole result: nothing is copied but the gradient of a
residual behind an activation, for which engines take no memory. Elsewhere the pieces are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bnkern._call import INPUT_GRAD, LIKE_X, NORMALISE, Call, Results
from bnkern._dtypes import Array, namespace, native
from bnkern._native import cpu, memory
from bnkern.arrays import kind_of, known_library

_ndarray = np.ndarray


def run(engine: Callable[[Call], Results], call: Call) -> Results:
    """What `engine` gives for each of call.ghosts: arrays like x whole, mean and var of shape (ghost batches, C), the
    sums added in the order of the ghost batches."""
    writable = kind_of(call.x).writable
    elementwise = call.passes & NORMALISE or (call.passes & INPUT_GRAD and "x" in call.needs)
    out = _empty_like(call) if call.out is None and writable and elementwise else call.out
    masked = _empty_like(call) if call.dresidual and writable else None
    found: list[list[Any]] = [[] for _ in range(6)]
    for rows, part in _parts(call, out):
        results = list(engine(part))
        if masked is not None:
            masked[rows] = results[5]
        if out is not None:
            results[0] = None
        results[5] = results[5] if masked is None else None  # memory for the next ghost batch
        for column, result in zip(found, results, strict=True):
            if result is not None:
                column.append(result)
    outs, means, variances, sums_dy, sums_dy_xhat, dresiduals = found
    return (
        _joined(outs, call.x) if out is None else out, _stacked(means), _stacked(variances),
        _added(sums_dy), _added(sums_dy_xhat), _joined(dresiduals, call.x) if masked is None else masked,
    )  # fmt: skip


def _parts(call: Call, out: Array | None) -> Iterator[tuple[Any, Call]]:
    """The call of each ghost batch, and its rows."""
    ghosts = call.ghosts or ()
    lengths = [rows.stop - rows.start for rows in ghosts]
    problems = {n: call.problem.of_part((n, *call.problem.shape[1:])) for n in set(lengths)}
    like_x = {name: a for name, a in call.replaced(out=out).operands() if name in LIKE_X}
    for i, (rows, n) in enumerate(zip(ghosts, lengths, strict=True)):
        at, p = (rows, ...), problems[n]
        changes = {name: a[at] for name, a in like_x.items()}
        if call.mean is not None:
            changes |= {"mean": call.mean[i, ...], "var": call.var[i, ...]}
        yield at, call.replaced(problem=p, count=p.count, ghosts=None, **changes)


def _empty_like(call: Call) -> Array:
    """Memory for a result, in x's memory order: from the pool where the kernels take x as it lies."""
    x = call.x
    if type(x) is not _ndarray:
        return namespace(x).empty_like(x)
    if cpu.layout(x, call.axis):
        return memory.empty_like(x)
    return np.empty_like(x, dtype=native(x.dtype), subok=False)


def _joined(pieces: list[Array], x: Array) -> Array | None:
    return known_library(x).joined(pieces, x) if pieces else None


def _stacked(vectors: list[Array]) -> Array | None:
    if not vectors:
        return None
    return np.array(vectors) if type(vectors[0]) is _ndarray else namespace(vectors[0]).stack(vectors)


def _added(vectors: list[Array]) -> Array | None:
    """One after another, so that the order is fixed; Inf and -Inf give NaN in their channel, silently."""
    with np.errstate(all="ignore"):
        return sum(vectors[1:], start=vectors[0]) if vectors else None

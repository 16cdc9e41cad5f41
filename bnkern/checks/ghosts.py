"""The check of ghost batches: which samples each one has, and the statistics of them."""

from __future__ import annotations

from typing import Any

from bnkern._call import Call, Problem
from bnkern._numbers import count, integer
from bnkern._words import describe
from bnkern.arrays import same_library
from bnkern.checks.operands import vector_dtype


def runs(name: str, p: Problem, size: Any) -> tuple[slice, ...]:
    """The runs of `size` samples, the last one smaller; a single empty one where there is no sample."""
    size, samples = integer(name, size, low=1), p.shape[0]
    if p.axis == 0:
        raise ValueError(
            f"{name}: expected None for channels in axis 0, where samples are cut, "
            f"got {size} for shape {p.shape} with axis=0; move the samples to the front"
        )
    return tuple(slice(i, min(i + size, samples)) for i in range(0, max(samples, 1), size))


def counts(call: Call) -> tuple[int, ...]:
    """Values per channel in each ghost batch."""
    p = call.problem
    each = p.count // p.shape[0] if p.count else 0
    return tuple((rows.stop - rows.start) * each for rows in call.ghosts or ())


def train(call: Call) -> None:
    """No ghost batch may have a single value per channel."""
    found = counts(call)
    if 1 in found:
        raise ValueError(
            "ghost_batch_size: expected more than one value per channel in each ghost batch, where a single one has "
            f"variance 0, got 1 in ghost batch {found.index(1)} of {len(found)} for shape {call.problem.shape}; "
            "choose a size that leaves no single sample over"
        )


def statistics(call: Call, number: Any, fixed: bool) -> None:
    """mean and var have a row, and counts an entry, for each ghost batch of x."""
    p, found = call.problem, counts(call)
    shape = len(found), p.channels
    for name, v in (("stats.mean", call.mean), ("stats.var", call.var)):
        same_library(name, v, "x", call.x)
        if tuple(v.shape) != shape:
            meaning = f"ghost batches and channels of x, shape {p.shape} with axis={p.axis}"
            raise ValueError(f"{name}: expected shape {shape} ({meaning}), got shape {tuple(v.shape)}")
        vector_dtype(name, v, p.dtype)
    if fixed:
        return
    if not isinstance(number, (tuple, list)):
        expected = "a tuple, the values per channel of each ghost batch"
        raise TypeError(f"stats.count: expected {expected}, got {describe(number)}")
    if len(number) != len(found):
        raise ValueError(f"stats.count: expected {len(found)} entries, one for each ghost batch, got {len(number)}")
    for i, (got, n) in enumerate(zip(number, found, strict=True)):
        if type(got).__name__.endswith("Tracer"):  # has no value to compare
            continue
        if count(f"stats.count[{i}]", got) != n:
            raise ValueError(f"stats.count[{i}]: expected {n}, the values per channel of x there, got {got}")

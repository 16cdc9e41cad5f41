"""Training forward and backward with the statistics of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Never

import numpy as np

from bnkern._activations import ActivationSpec
from bnkern._api.backward import delivered
from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS, Call
from bnkern._dispatch import route_of, run
from bnkern._dtypes import Array
from bnkern._types import BatchNormGrads, BatchStats
from bnkern._vectors import ema_update
from bnkern._words import by_position, named_arguments
from bnkern.arrays import known_library
from bnkern.checks import calls as check
from bnkern.checks.ghosts import runs
from bnkern.checks.parameters import correction_below
from bnkern.checks.problem import call_on
from bnkern.distributed._exchange import Part, added, exchanged, merged
from bnkern.distributed._mpi import gather_of

Comm = Any  # an mpi4py communicator, or a Gather


@named_arguments
def batch_norm_train(
    x: Array, *misplaced: Never, comm: Comm, weight: Array | None = None, bias: Array | None = None,
    running_mean: Array | None = None, running_var: Array | None = None, axis: int = 1, eps: float = 1e-5,
    momentum: float | None = 0.1, num_batches: int | None = None, correction: float = 1, part_size: int | None = None,
    activation: ActivationSpec = None, residual: Array | None = None, out: Array | None = None,
) -> tuple[Array, BatchStats]:  # fmt: skip
    """`bnkern.batch_norm_train` with the statistics of the rows of all ranks.

    Every rank of `comm` must make the call. One gather; y is computed by each rank for its own rows.

    Parameters
    ----------
    x : array of rank 2 or more, in CPU memory
        This rank's rows: any number of them, none too (shape (0, C, ...)). All ranks have the same channels.
    comm : mpi4py communicator, or callable
        A function takes this rank's bytes and returns a list of those of all ranks, in the order of the ranks.
    part_size : int, optional
        Cuts this rank's rows (axis 0) into parts of that many samples, the last one smaller, whose statistics are
        gathered one by one. The result depends on the sequence of all parts alone: where each rank has a multiple of
        part_size rows, it is the same to the bit for every number of ranks. By default a rank's rows are one part.
    weight, bias, running_mean, running_var, axis, eps, momentum, num_batches, correction, activation, residual, out
        As in `bnkern.batch_norm_train`; axis (counted from the front), eps, momentum, num_batches, correction and
        activation the same on all ranks.

    Returns
    -------
    y : array like x
    stats : BatchStats
        Of all rows, the same bits on every rank; so are updated running statistics.

    Raises
    ------
    TypeError, ValueError
        As `bnkern.batch_norm_train`; on every rank, before anything is written: where the cause is on one rank, the
        others raise `RankError` with its words. One value per channel is a ValueError where it is that of all ranks. A
        `comm` that is none raises on this rank alone.

    Notes
    -----
    The paper's Algorithm 1; parts are merged after Chan, Golub, LeVeque (1983) as in `bnkern.merge_stats`.
    """
    if misplaced:
        raise by_position(batch_norm_train, misplaced)
    gather = gather_of(comm)
    made: list[tuple[Call, float, float]] = []

    def local() -> tuple[str, int, list[Part]]:
        call = call_on(x, NORMALISE, axis, eps, activation)
        call.weight, call.bias, call.residual, call.out = weight, bias, residual, out
        made.append((call, *check.train(call, running_mean, running_var, momentum, num_batches, correction, part=True)))
        in_cpu_memory(call)
        how = f"batch_norm_train(momentum={float(made[0][1])!r}, correction={float(made[0][2])!r}, {_same(call)})"
        return how, call.problem.channels, list(_each_part(call, part_size, STATS, 1))

    parts = exchanged(gather, local)
    mean, var, count = merged(parts)
    call, factor, correction = made[0]
    if count == 1:
        raise ValueError(
            "x: expected more than one value per channel on all ranks together in training, where a single one has "
            "variance 0, got 1; give a larger batch"
        )
    correction_below(correction, count)
    call.mean, call.var = wrapped(mean, call.x), wrapped(var, call.x)
    y = run(call)[0]
    if running_mean is not None and count:
        ema_update(running_mean, call.mean, factor, 1.0)
        ema_update(running_var, call.var, factor, count / (count - correction))
    return y, BatchStats(call.mean, call.var, count)


@named_arguments
def batch_norm_backward(
    dy: Array, x: Array, stats: BatchStats | Sequence[Any], *misplaced: Never, comm: Comm, weight: Array | None = None,
    bias: Array | None = None, axis: int = 1, eps: float = 1e-5, part_size: int | None = None,
    activation: ActivationSpec = None, y: Array | None = None, needs: Collection[str] = ("x", "weight", "bias"),
    out: Array | None = None,
) -> BatchNormGrads:  # fmt: skip
    """Gradients of `batch_norm_train` over all ranks.

    Every rank of `comm` must make the call. One gather of two sums per channel.

    Parameters
    ----------
    dy, x, y, out : array
        This rank's rows.
    stats : BatchStats
        From the forward call: of all rows.
    comm, part_size
        As in the forward call.
    weight, bias, axis, eps, activation, needs
        As in `bnkern.batch_norm_backward`; axis, eps and activation the same on all ranks.

    Returns
    -------
    BatchNormGrads
        dx and dresidual of this rank's rows. dweight and dbias of **all** rows, the same bits on every rank: they are
        not to be added over ranks again.

    Raises
    ------
    TypeError, ValueError
        As `bnkern.batch_norm_backward`, on every rank (`RankError` where the cause is on another), and where the rows
        of all ranks are not as many as stats.count says. Nothing has been written then.
    """
    if misplaced:
        raise by_position(batch_norm_backward, misplaced)
    gather = gather_of(comm)
    made: list[Call] = []

    def local() -> tuple[str, int, list[Part]]:
        call = call_on(x, 0, axis, eps, activation)
        call.dy, call.weight, call.bias, call.y, call.out = dy, weight, bias, y, out
        check.backward(call, stats, False, needs, part=True)
        in_cpu_memory(call)
        made.append(call)
        how = f"batch_norm_backward({_same(call)})"
        return how, call.problem.channels, list(_each_part(call, part_size, REDUCE, 3))

    parts = exchanged(gather, local)
    count, sum_dy, sum_dy_xhat = added(parts)
    call = made[0]
    if count != call.count:
        raise ValueError(f"stats.count: expected {count}, the values per channel of all ranks, got {call.count}")
    call.sum_dy, call.sum_dy_xhat = wrapped(sum_dy, call.x), wrapped(sum_dy_xhat, call.x)
    call.passes &= INPUT_GRAD
    dx, dresidual = None, None
    if call.passes:
        dx, *_, dresidual = run(call)
    return delivered(call, dx, call.sum_dy, call.sum_dy_xhat, dresidual)


def _same(call: Call) -> str:
    """What must be the same on every rank, in words that tell apart every two numbers."""
    where = f"axis={call.problem.axis}"  # counted from the front
    return f"eps={float(call.eps)!r}, {where}, activation number {call.activation} with {float(call.parameter)!r}"


def _each_part(call: Call, size: Any, passes: int, first: int) -> Iterator[Part]:
    """What a reduction gives (two entries of its results, from `first`) for each part of this rank's rows."""
    p = call.problem
    cuts: Sequence[Any] = [None] if size is None else runs("part_size", p, size)
    for rows in cuts:
        operands = {name: a if a is None or rows is None else a[rows, ...] for name, a in _rows_of(call)}
        problem = p.of_part(tuple(operands["x"].shape))
        results = run(call.replaced(problem=problem, passes=passes, out=None, dresidual=False, **operands))
        yield Part(problem.count, exported(results[first], call), exported(results[first + 1], call))


def _rows_of(call: Call) -> list[tuple[str, Array]]:
    return [(name, getattr(call, name)) for name in ("x", "dy", "y")]


# --- between x's kind of array and messages -------------------------------------------------------


def in_cpu_memory(call: Call) -> None:
    """Messages are made of host memory; nothing is copied from a device, computed or traced behind the user's back."""
    route = route_of(call.x)
    takes: Callable[[Array], bool] | None = route.adapter.takes if route.adapter else None
    if route.name != "cpu" or (takes is not None and not takes(call.x)):
        kind = known_library(call.x).name
        raise TypeError(f"x: expected an array with its values in CPU memory, to make messages of, got one of {kind}")


def exported(v: Array, call: Call) -> np.ndarray:
    """A vector like x as NumPy's, in float64."""
    adapter = route_of(call.x).adapter
    return np.asarray(v if adapter is None or type(v) is np.ndarray else adapter.export(v), np.float64)


def wrapped(v: np.ndarray, x: Array) -> Array:
    """A vector as x's kind of array."""
    adapter = route_of(x).adapter
    return v if adapter is None else adapter.wrap(v, x)

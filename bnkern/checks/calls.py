"""The check of a whole call on x, one function for each kind of call; what they settle goes into the Call.

First come the fast checks for the common case (plain NumPy arrays of the right shape and type); what they do not know
goes the long way (bnkern.checks.operands), which finds the words.
"""

from __future__ import annotations

from typing import Any

from bnkern._call import Call
from bnkern._native import checks as fast
from bnkern._numbers import count, traced
from bnkern._words import describe
from bnkern.arrays.memory import shared
from bnkern.checks import ghosts, operands
from bnkern.checks.parameters import USUAL, USUAL_SET, correction_below, gradients, momentum_factor, switch
from bnkern.checks.problem import problem as problem  # so that a caller needs this module alone

_USUAL = 1e300  # no number that is used, and none that is infinite, is beyond
_INFERENCE = ("running_mean", "running_var", "weight", "bias")
_TRAIN = ("weight", "bias", "running_mean", "running_var")
_BACKWARD = ("stats.mean", "stats.var", "weight", "bias")
_APPLY = ("stats.mean", "stats.var", "sums.sum_dy", "sums.sum_dy_xhat", "weight", "bias")


def inference(call: Call) -> None:
    if not fast.vectors(call.x, call.problem.channels, 2, call.mean, call.var, call.weight, call.bias):
        taken = operands.vectors(call, _INFERENCE, 2, call.mean, call.var, call.weight, call.bias)
        call.mean, call.var, call.weight, call.bias = taken
    if call.residual is not None:
        operands.like_x(call, "residual", call.residual)
    if call.out is not None:
        vectors = {"running_mean": call.mean, "running_var": call.var, "weight": call.weight, "bias": call.bias}
        operands.output(call, {"x": call.x, "residual": call.residual}, vectors)


def train(
    call: Call, running_mean: Any, running_var: Any, momentum: Any, num_batches: Any, correction: Any,
    part: bool = False,
) -> tuple[float, float]:  # fmt: skip
    """Returns the momentum as a number even where it is None, and the correction as a float.

    Of a part of the batch the count may be anything: what it must be is for the whole to say.
    """
    p = call.problem
    if p.eps == 0.0:
        raise ValueError("eps: expected a number > 0 in training, where a variance may be 0, got 0")
    if call.ghosts is not None:
        ghosts.train(call)
    elif p.count == 1 and not part:
        raise ValueError(
            "x: expected more than one value per channel in training, where a single one has variance 0, "
            f"got shape {p.shape} with axis={p.axis}; give a larger batch, or use batch_norm_inference"
        )
    if not fast.vectors(call.x, p.channels, 0, call.weight, call.bias, running_mean, running_var):
        taken = operands.vectors(call, _TRAIN, 0, call.weight, call.bias, running_mean, running_var)
        call.weight, call.bias, running_mean, running_var = taken
    most = 0 if part else p.count
    if num_batches is None and type(momentum) is float and abs(momentum) <= _USUAL and type(correction) is int:
        factor = momentum
        if not 0 <= correction < most:
            correction = correction_below(correction, most)
    else:
        factor, correction = momentum_factor(momentum, num_batches), correction_below(correction, most)
    if call.residual is not None:
        operands.like_x(call, "residual", call.residual)
    if call.out is not None:
        vectors = {"weight": call.weight, "bias": call.bias}
        operands.output(call, {"x": call.x, "residual": call.residual}, vectors)
    if running_mean is not None or running_var is not None:
        others = (call.x, call.weight, call.bias, call.residual, call.out)
        if not fast.running(running_mean, running_var, *others):
            operands.running(call, running_mean, running_var)
    return factor, correction


def backward(call: Call, stats: Any, frozen: Any, needs: Any, part: bool = False) -> None:
    """`part`: x is a part of the batch, and stats are those of the whole."""
    p, x = call.problem, call.x
    mean, var, number = stats if isinstance(stats, tuple) and len(stats) == 3 else operands.statistics(stats)
    call.mean, call.var = mean, var
    if call.ghosts is not None:
        call.weight, call.bias = operands.vectors(call, _BACKWARD[2:], 0, call.weight, call.bias)
    elif not fast.vectors(x, p.channels, 2, mean, var, call.weight, call.bias):
        taken = operands.vectors(call, _BACKWARD, 2, mean, var, call.weight, call.bias)
        call.mean, call.var, call.weight, call.bias = taken
    if not fast.twin(x, call.dy):
        operands.like_x(call, "dy", call.dy)
    fixed = frozen if type(frozen) is bool else switch("frozen", frozen)
    if call.ghosts is not None:
        ghosts.statistics(call, number, fixed)
    elif part:
        call.count = _count_of_whole(call, number)
    elif not fixed and (type(number) is not int or number != p.count):
        _count_of(p.count, number)
    call.wants(USUAL_SET if type(needs) is tuple and needs == USUAL else gradients(needs), fixed)
    if call.y is not None:
        operands.like_x(call, "y", call.y)
    elif call.dresidual:
        raise ValueError("y: expected the forward's y, whose sign the gradient of residual needs, got None")
    if call.out is not None:
        if "x" not in call.needs:
            raise ValueError("out: expected None without 'x' in needs (out is for dx), got an array")
        vectors = {"stats.mean": call.mean, "stats.var": call.var, "weight": call.weight, "bias": call.bias}
        operands.output(call, {"dy": call.dy, "x": call.x, "y": call.y}, vectors)
        if "residual" in call.needs and not call.dresidual and shared(call.out, call.dy):
            raise ValueError("out: expected memory apart from dy, which is to be dresidual too, got dy's")


def _count_of(expected: int, number: Any) -> None:
    """The count that came with statistics is that of x. A count that JAX traces has no value to compare."""
    if traced(number):
        return
    got = count("stats.count", number, "; running statistics have none: frozen=True" if number is None else "")
    if got != expected:
        raise ValueError(
            f"stats.count: expected {expected}, the values per channel of x, got {got}; "
            "for a part of a batch use backward_reduce and backward_apply, for running statistics frozen=True"
        )


def reduce(call: Call, stats: Any) -> None:
    call.mean, call.var, number = operands.statistics(stats)
    taken = operands.vectors(call, _BACKWARD, 2, call.mean, call.var, call.weight, call.bias)
    call.mean, call.var, call.weight, call.bias = taken
    _count_of_whole(call, number)
    operands.like_x(call, "dy", call.dy)
    if call.y is not None:
        operands.like_x(call, "y", call.y)


def apply(call: Call, stats: Any, sums: Any) -> None:
    call.mean, call.var, number = operands.statistics(stats)
    if not isinstance(sums, (tuple, list)):
        raise TypeError(f"sums: expected GradSums(sum_dy, sum_dy_xhat), got {describe(sums)}")
    if len(sums) != 2:
        raise ValueError(f"sums: expected two entries (sum_dy, sum_dy_xhat), got {len(sums)}")
    call.sum_dy, call.sum_dy_xhat = sums
    given = (call.mean, call.var, call.sum_dy, call.sum_dy_xhat, call.weight, call.bias)
    vectors = operands.vectors(call, _APPLY, 4, *given)
    call.mean, call.var, call.sum_dy, call.sum_dy_xhat, call.weight, call.bias = vectors
    call.count = _count_of_whole(call, number)
    call.needs = frozenset("x")
    operands.like_x(call, "dy", call.dy)
    if call.y is not None:
        operands.like_x(call, "y", call.y)
    if call.out is not None:
        named = dict(zip(_APPLY, vectors, strict=True))
        operands.output(call, {"dy": call.dy, "x": call.x, "y": call.y}, named)


def _count_of_whole(call: Call, given: Any) -> int:
    if traced(given):
        return given
    whole, part = count("stats.count", given), call.problem.count
    if whole < part:
        raise ValueError(f"stats.count: expected at least {part}, the values per channel of this part, got {whole}")
    return whole

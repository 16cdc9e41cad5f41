"""The checks of the calls without x: merge_stats, update_running, fold_batch_norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bnkern._dtypes import DTYPES, Array
from bnkern._numbers import count, integer, real, traced
from bnkern._words import describe
from bnkern.arrays import adopted, library_of, same_library
from bnkern.checks.operands import statistics, vector
from bnkern.checks.parameters import correction_below, momentum_factor
from bnkern.checks.problem import float_dtype

Part = tuple[Array, Array, int]  # mean, variance, count


def merge(parts: Any) -> list[Part]:
    try:
        if hasattr(parts, "_fields") or isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):
            raise TypeError
        entries = list(parts)
    except (TypeError, NotImplementedError):  # of what says that it can be iterated over, and cannot
        raise TypeError(f"parts: expected several BatchStats, got {describe(parts)}") from None
    checked: list[Part] = []
    for i, part in enumerate(entries):
        mean, var, number = statistics(part, f"parts[{i}]")
        mean, var = adopted(f"parts[{i}].mean", mean), adopted(f"parts[{i}].var", var)
        first = checked[0][0] if checked else mean
        _pair(f"parts[{i}].mean", mean, f"parts[{i}].var", var, "parts[0].mean", first)
        checked.append((mean, var, _count(f"parts[{i}].count", number)))
    if not checked:
        raise ValueError("parts: expected at least one BatchStats, got none")
    return checked


def update(
    running_mean: Any, running_var: Any, stats: Any, momentum: Any, num_batches: Any, correction: Any
) -> tuple[Part, float, float]:
    """Returns the statistics, the momentum as a number, and the correction."""
    mean, var, number = statistics(stats)
    mean, var = adopted("stats.mean", mean), adopted("stats.var", var)
    _pair("running_mean", running_mean, "running_var", running_var, "running_mean", running_mean)
    _pair("stats.mean", mean, "stats.var", var, "running_mean", running_mean)
    whole = _count("stats.count", number)
    factor, correction = momentum_factor(momentum, num_batches), correction_below(correction, whole)
    return (mean, var, whole), factor, correction


def _count(name: str, number: Any) -> Any:
    return number if traced(number) else count(name, number)


def pair_of_parts(name: str, given: tuple[Any, Any], first: Array) -> None:
    """Mean and variance of one more part go with those of the first."""
    _pair(f"{name}.mean", given[0], f"{name}.var", given[1], "what was added before", first)


def _pair(mean_name: str, mean: Any, var_name: str, var: Any, ref_name: str, ref: Any) -> None:
    """A mean and a variance: 1-D, as long as `ref`, and of its kind."""
    for name, v in ((mean_name, mean), (var_name, var)):
        same_library(name, v, ref_name, ref)
        if len(v.shape) != 1:
            ghosts = "; of ghost batches each is a part: zip(*stats)" if len(v.shape) == 2 else ""
            raise ValueError(f"{name}: expected one entry per channel, got shape {tuple(v.shape)}{ghosts}")
        vector(name, v, tuple(ref.shape), f"as {ref_name} has", *DTYPES)


class Fold(NamedTuple):
    """What to fold into what."""

    conv_weight: Array
    conv_bias: Array | None
    running_mean: Array
    running_var: Array
    weight: Array | None
    bias: Array | None
    eps: float
    axis: int  # of the output channels, not negative
    groups: int


def fold(given: Fold) -> Fold:
    """The same with eps, axis and groups as numbers that fit."""
    given = given._replace(**{name: adopted(name, getattr(given, name)) for name in Fold._fields[:6]})
    library_of("conv_weight", given.conv_weight)
    shape = tuple(given.conv_weight.shape)
    name = float_dtype("conv_weight", given.conv_weight.dtype)
    if len(shape) < 2:
        raise ValueError(f"conv_weight: expected at least 2 dimensions (out and in), got shape {shape}")
    axis, eps = integer("out_axis", given.axis), real("eps", given.eps) + 0.0
    groups = integer("groups", given.groups, low=1)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"out_axis: expected an axis of conv_weight, shape {shape}, got {axis}")
    if eps < 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    meaning = f"the output channels of conv_weight, shape {shape} with out_axis={axis}, groups={groups}"
    axis %= len(shape)
    grouped = 0 if axis == 1 else axis  # where all groups lie side by side: transposed, that is the input
    if shape[grouped] % groups:
        raise ValueError(f"groups: expected a divisor of {shape[grouped]} (of shape {shape}), got {groups}")
    channels = shape[axis] * (groups if axis == 1 else 1)
    for argument in ("running_mean", "running_var", "conv_bias", "weight", "bias"):
        v = getattr(given, argument)
        if v is not None or argument.startswith("running"):
            same_library(argument, v, "conv_weight", given.conv_weight)
            vector(argument, v, (channels,), meaning, name)
    return given._replace(eps=eps, axis=axis, groups=groups)

"""The checks of the calls without x: merge_stats, update_running, fold_batch_norm. See `_check`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bnkern._args import READY, describe, dtype_name, integer, real
from bnkern._check import correction_below, factor_of, statistics, vector
from bnkern._kinds import kind, same_kind
from bnkern._types import BatchStats


def merge(parts: Any) -> list[BatchStats]:
    if isinstance(parts, BatchStats) or not isinstance(parts, Iterable):
        raise TypeError(f"parts: expected several BatchStats, got {describe(parts)}")
    checked: list[BatchStats] = []
    for i, part in enumerate(parts):
        mean, var, count = statistics(part, f"parts[{i}]")
        first = checked[0].mean if checked else mean
        _pair(f"parts[{i}].mean", mean, f"parts[{i}].var", var, "parts[0].mean", first)
        checked.append(BatchStats(mean, var, integer(f"parts[{i}].count", count, low=0)))
    if not checked:
        raise ValueError("parts: expected at least one BatchStats, got none")
    return checked


def update(
    running_mean: Any, running_var: Any, stats: Any, momentum: Any, num_batches: Any, correction: Any
) -> tuple[BatchStats, float, float]:
    mean, var, count = statistics(stats)
    _pair("running_mean", running_mean, "running_var", running_var, "running_mean", running_mean)
    _pair("stats.mean", mean, "stats.var", var, "running_mean", running_mean)
    number = integer("stats.count", count, low=0)
    factor, correction = factor_of(momentum, num_batches), correction_below(correction, number)
    return BatchStats(mean, var, number), factor, correction


def _pair(mean_name: str, mean: Any, var_name: str, var: Any, ref_name: str, ref: Any) -> None:
    """A mean and a variance: 1-D, as long as `ref`, and of its kind."""
    for name, v in ((mean_name, mean), (var_name, var)):
        same_kind(name, v, ref_name, ref)
        if len(v.shape) != 1:
            raise ValueError(f"{name}: expected one entry per channel, got shape {tuple(v.shape)}")
        vector(name, v, tuple(ref.shape), f"as {ref_name} has", *READY)


def fold(
    conv_weight: Any, conv_bias: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, eps: Any,
    out_axis: Any, groups: Any,
) -> tuple[float, int, int]:  # fmt: skip
    """Returns eps, the output axis (not negative), groups."""
    kind("conv_weight", conv_weight)
    shape = tuple(conv_weight.shape)
    if dtype_name(conv_weight.dtype) not in READY:
        raise TypeError(f"conv_weight: expected dtype {' or '.join(READY)}, got {conv_weight.dtype}")
    if len(shape) < 2:
        raise ValueError(f"conv_weight: expected at least 2 dimensions (out and in), got shape {shape}")
    axis, eps, groups = integer("out_axis", out_axis), real("eps", eps), integer("groups", groups, low=1)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"out_axis: expected an axis of conv_weight, shape {shape}, got {axis}")
    if eps < 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    axis %= len(shape)
    grouped = 0 if axis == 1 else axis  # where all groups lie side by side: transposed, that is the input
    if shape[grouped] % groups:
        raise ValueError(f"groups: expected a divisor of {shape[grouped]} (of shape {shape}), got {groups}")
    channels = shape[axis] * (groups if axis == 1 else 1)
    vectors = {"running_mean": running_mean, "running_var": running_var}
    vectors |= {"conv_bias": conv_bias, "weight": weight, "bias": bias}
    meaning = f"the output channels of conv_weight, shape {shape} with out_axis={out_axis}, groups={groups}"
    for name, v in vectors.items():
        if v is not None or name.startswith("running"):
            same_kind(name, v, "conv_weight", conv_weight)
            vector(name, v, (channels,), meaning, dtype_name(conv_weight.dtype))
    return eps, axis, groups


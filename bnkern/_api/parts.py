"""The same work in parts, so that statistics can cross micro-batches, processes and machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Never

from bnkern import _vectors
from bnkern._activations import ActivationSpec
from bnkern._call import INPUT_GRAD, REDUCE, STATS
from bnkern._dispatch import run
from bnkern._dtypes import Array
from bnkern._numbers import traced
from bnkern._types import BatchStats, GradSums
from bnkern._words import by_position, named_arguments
from bnkern.arrays import adopted
from bnkern.checks import calls as check
from bnkern.checks import vectors as check_vectors
from bnkern.checks.problem import call_on

Stats = BatchStats | Sequence[Any]


@named_arguments
def batch_stats(x: Array, *misplaced: Never, axis: int = 1) -> BatchStats:
    """Mean, population variance and count per channel.

    Parameters
    ----------
    x : array of rank 2 or more, float32, float64, float16 or bfloat16
    axis : int
        The channel axis.

    Returns
    -------
    BatchStats
        float64 mean and var of shape (C,); a single value per channel has variance 0, none has count 0 and
        zeros.

    Raises
    ------
    TypeError
        If x is no array of a floating-point dtype whose values are there.
    ValueError
        If x has less than two dimensions, or `axis` is none of them.

    Notes
    -----
    The paper's Algorithm 1, steps 1 and 2.
    """
    if misplaced:
        raise by_position(batch_stats, misplaced)
    call = call_on(x, STATS, axis)
    _, mean, var, _, _, _ = run(call)
    return BatchStats(mean, var, call.count)


@named_arguments
def merge_stats(parts: Iterable[Stats], *misplaced: Never) -> BatchStats:
    """Statistics of a whole from those of its parts, exact for unequal and zero counts.

    Of two parts `a + b` is the same, of many `sum(parts)` up to rounding.

    Parameters
    ----------
    parts : iterable of BatchStats or (mean, var, count)
        At least one; all of the same kind of array, with the same number of channels. Parts with count 0 have
        no influence, whatever they hold. A count may be a float or an array without dimensions, as reductions give it.

    Returns
    -------
    BatchStats
        New arrays, float64.

    Raises
    ------
    TypeError
        If `parts` is a single BatchStats or nothing to iterate over, or a part is of another kind of array.
    ValueError
        If there are no parts, they differ in length, or a count is negative or no whole number.

    Notes
    -----
    Chan, Golub, LeVeque (1983): with n, mean, var of the parts, mean = sum(n_k mean_k) / n and
    var = sum(n_k var_k + n_k (mean_k - mean)^2) / n, taken about the first part's mean.
    """
    if misplaced:
        raise by_position(merge_stats, misplaced)
    return BatchStats(*_vectors.merge(check_vectors.merge(parts)))


@named_arguments
def update_running(
    stats: Stats, *misplaced: Never, running_mean: Array, running_var: Array, momentum: float | None = 0.1,
    num_batches: int | None = None, correction: float = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """New running statistics; the pure twin of what `batch_norm_train` does in place.

    Parameters
    ----------
    stats : BatchStats or (mean, var, count)
        Of the batch, or merged from its parts. Count 0 changes nothing.
    running_mean, running_var : array of shape (C,), float32, float64, float16 or bfloat16
        The old ones. Not changed, and may be read-only.
    momentum, num_batches, correction
        As in `batch_norm_train`; correction is below the count.

    Returns
    -------
    mean, var : array of shape (C,)
        New arrays in the dtypes of the old ones.

    Raises
    ------
    TypeError
        If a vector is of another library or device, or an argument is given by position.
    ValueError
        If vectors differ in length, or the correction is not below the count.

    Notes
    -----
    running = (1 - momentum) * running + momentum * batch, in float64, with var * count / (count -
    correction) for the variance. momentum=None and correction=1 give the averages of the paper's Algorithm 2,
    step 10.
    """
    if misplaced:
        raise by_position(update_running, misplaced)
    running_mean, running_var = adopted("running_mean", running_mean), adopted("running_var", running_var)
    (mean, var, count), factor, correction = check_vectors.update(
        running_mean, running_var, stats, momentum, num_batches, correction
    )
    if traced(count):
        return _vectors.updated_by_traced(running_mean, running_var, (mean, var, count), factor, correction)
    if count == 0:
        return _vectors.copied(running_mean), _vectors.copied(running_var)
    new_mean = _vectors.updated(running_mean, mean, factor, 1.0)
    return new_mean, _vectors.updated(running_var, var, factor, count / (count - correction))


@named_arguments
def backward_reduce(
    dy: Array, x: Array, stats: Stats, *misplaced: Never, weight: Array | None = None, bias: Array | None = None,
    axis: int = 1, eps: float = 1e-5, activation: ActivationSpec = None, y: Array | None = None,
) -> GradSums:  # fmt: skip
    """The two sums per channel that the backward pass needs, of a part of the batch.

    Parameters
    ----------
    dy, x, y : array
        The part's, as in `batch_norm_backward`.
    stats : BatchStats or (mean, var, count)
        Of the whole batch.
    weight, bias, axis, eps, activation
        As in `batch_norm_backward`.

    Returns
    -------
    GradSums
        sum_dy and sum_dy_xhat of shape (C,), float64. Added over all parts (`a + b`, `sum(parts)`) they are
        dbias and dweight, and what `backward_apply` asks for.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        If dy or y has not x's shape, or stats.count is below the number of values per channel of this part.

    Notes
    -----
    The sums in the chain rule of the paper's section 3: sum(dy) and sum(dy * (x - mean) / sqrt(var + eps)).
    """
    if misplaced:
        raise by_position(backward_reduce, misplaced)
    call = call_on(x, REDUCE, axis, eps, activation)
    call.dy, call.weight, call.bias, call.y = dy, weight, bias, y
    check.reduce(call, stats)
    _, _, _, sum_dy, sum_dy_xhat, _ = run(call)
    return GradSums(sum_dy, sum_dy_xhat)


@named_arguments
def backward_apply(
    dy: Array, x: Array, stats: Stats, sums: GradSums | Sequence[Any], *misplaced: Never,
    weight: Array | None = None, bias: Array | None = None, axis: int = 1, eps: float = 1e-5,
    activation: ActivationSpec = None, y: Array | None = None, out: Array | None = None,
) -> Array:  # fmt: skip
    """dx of a part of the batch, from statistics and sums of the whole.

    Parameters
    ----------
    dy, x, y, out : array
        The part's, as in `batch_norm_backward`.
    stats : BatchStats or (mean, var, count)
        Of the whole batch; its count is the n of the formula.
    sums : GradSums or (sum_dy, sum_dy_xhat)
        `backward_reduce` added over all parts.
    weight, bias, axis, eps, activation
        As in `batch_norm_backward`.

    Returns
    -------
    array like x
        `out` where given.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        If stats.count is below the number of values per channel of this part, or `out` cannot be written or overlaps
        an argument in part. Nothing has been written then.

    Notes
    -----
    dx = weight / sqrt(var + eps) * (dy - sum_dy / n - xhat * sum_dy_xhat / n): the paper's
    section 3, simplified.
    """
    if misplaced:
        raise by_position(backward_apply, misplaced)
    call = call_on(x, INPUT_GRAD, axis, eps, activation)
    call.dy, call.weight, call.bias, call.y, call.out = dy, weight, bias, y, out
    check.apply(call, stats, sums)
    return run(call)[0]

"""The backward pass, in one call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Never

from bnkern._activations import ActivationSpec
from bnkern._call import Call
from bnkern._dispatch import run, run_ghosts
from bnkern._dtypes import ITEMSIZE, Array, namespace
from bnkern._types import BatchNormGrads, BatchStats, new_tuple
from bnkern._vectors import cast_each
from bnkern._words import by_position, named_arguments
from bnkern.checks import calls as check
from bnkern.checks.ghosts import runs
from bnkern.checks.problem import call_on


@named_arguments
def batch_norm_backward(
    dy: Array, x: Array, stats: BatchStats | Sequence[Any], *misplaced: Never, weight: Array | None = None,
    bias: Array | None = None, axis: int = 1, eps: float = 1e-5, frozen: bool = False,
    ghost_batch_size: int | None = None, activation: ActivationSpec = None, y: Array | None = None,
    needs: Collection[str] = ("x", "weight", "bias"), out: Array | None = None,
) -> BatchNormGrads:  # fmt: skip
    """Gradients of `batch_norm_train`, or with frozen=True of `batch_norm_inference`.

    What the forward call was given must be given again: weight, bias, axis, eps, activation and ghost_batch_size.
    `batch_norm_vjp` remembers them.

    Parameters
    ----------
    dy : array like x
        Gradient with respect to y.
    x, weight, bias, axis, eps, activation, ghost_batch_size
        As in the forward call. bias matters with an activation only.
    stats : BatchStats or (mean, var, count)
        From the forward call; with frozen=True the statistics it used, whose count may be None. With ghost_batch_size
        mean and var have a row, and count an entry, for each ghost batch.
    frozen : bool
        Whether the statistics were given rather than computed from x: then dx has no mean terms, and takes
        one pass.
    y : array like x, optional
        The forward's result, for the sign behind the activation. Needed where a residual was added; otherwise
        the sign is computed again from x.
    needs : collection of {"x", "weight", "bias", "residual"}
        The gradients wanted. The others are None and cost nothing.
    out : array like x, optional
        Where to write dx. May be exactly dy, x or y (but not dy where that is dresidual), else it must share
        no memory with an argument.

    Returns
    -------
    BatchNormGrads
        dx and dresidual like x; dweight and dbias in weight's dtype, else bias's, else x's, then at least
        float32; of ghost batches summed in float64, in their order. Without activation dresidual is `dy` itself.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        If dy or y has not x's shape, stats.count is not the number of values per channel of x (parts of a batch:
        `backward_reduce`, `backward_apply`), or `out` overlaps an argument in part. Nothing has been written then.

    Notes
    -----
    The chain rule of the paper's section 3, simplified. With xhat = (x - mean) / sqrt(var + eps)
    and sums over the n values of a channel: dbias = sum(dy), dweight = sum(dy * xhat), and dx = weight /
    sqrt(var + eps) * (dy - dbias / n - xhat * dweight / n), or with frozen statistics only the dy.
    """
    if misplaced:
        raise by_position(batch_norm_backward, misplaced)
    call = call_on(x, 0, axis, eps, activation)
    call.dy, call.weight, call.bias, call.y, call.out = dy, weight, bias, y, out
    if ghost_batch_size is not None:
        call.ghosts = runs("ghost_batch_size", call.problem, ghost_batch_size)
    check.backward(call, stats, frozen, needs)
    return gradients(call)


def gradients(call: Call) -> BatchNormGrads:
    """What a checked backward call needs."""
    if not call.passes:
        return delivered(call, None, None, None, None)
    dx, _, _, sum_dy, sum_dy_xhat, masked = run(call) if call.ghosts is None else run_ghosts(call)
    return delivered(call, dx, sum_dy, sum_dy_xhat, masked)


def delivered(call: Call, dx: Any, sum_dy: Any, sum_dy_xhat: Any, masked: Any) -> BatchNormGrads:
    """What was computed, as it is promised: the gradients that `needs` names, each in its dtype."""
    needs, weight = call.needs, call.weight
    unmasked = call.dy if "residual" in needs and not call.dresidual else None
    dweight, dbias = cast_each(
        weight.dtype if weight is not None else _dtype_without_weight(call),
        sum_dy_xhat if "weight" in needs else None,  # one sum is found on the way to the other
        sum_dy if "bias" in needs else None,
    )
    entries = dx if "x" in needs else None, dweight, dbias, unmasked if masked is None else masked
    return new_tuple(BatchNormGrads, entries)


def _dtype_without_weight(call: Call) -> Any:
    if call.bias is not None:
        return call.bias.dtype
    return call.x.dtype if ITEMSIZE[call.problem.dtype] >= 4 else namespace(call.x).float32

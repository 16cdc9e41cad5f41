"""The forward pass: with given statistics, and with the batch's own."""

from __future__ import annotations

from typing import Never

from bnkern._activations import ActivationSpec
from bnkern._call import NORMALISE, STATS, Call
from bnkern._dispatch import run, run_ghosts
from bnkern._dtypes import Array
from bnkern._types import BatchStats, new_tuple
from bnkern._vectors import ema_update_both, merge
from bnkern._words import by_position, named_arguments
from bnkern.checks import calls as check
from bnkern.checks.ghosts import counts, runs
from bnkern.checks.problem import call_on


@named_arguments
def batch_norm_inference(
    x: Array, *misplaced: Never, running_mean: Array, running_var: Array, weight: Array | None = None,
    bias: Array | None = None, axis: int = 1, eps: float = 1e-5, activation: ActivationSpec = None,
    residual: Array | None = None, out: Array | None = None,
) -> Array:  # fmt: skip
    """Normalise with given statistics: y = weight * (x - running_mean) / sqrt(running_var + eps) + bias.

    Parameters
    ----------
    x : array of rank 2 or more, float32, float64, float16 or bfloat16
        Any strides, alignment and (in NumPy) byte order. bfloat16 in NumPy is that of the package ml_dtypes. The 16-bit
        types are computed in float32 or better, and rounded once.
    running_mean, running_var : array of shape (C,), float32, float64 or x's dtype
        Statistics per channel. Not changed.
    weight, bias : array of shape (C,), float32, float64 or x's dtype, optional
        gamma (default 1) and beta (default 0), each on its own.
    axis : int
        The channel axis: 1 for NC, NCL, NCHW, NCDHW, -1 for NC, NLC, NHWC, NDHWC; any other works too.
    eps : float
        At least 0, inside the square root.
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        "relu" sets negative results to 0, "relu6" also larger ones than 6 to 6, "leaky_relu" multiplies negative ones
        by slope, a number of at least 0 (y must tell the sign of what it was made of). NaN stays.
    residual : array like x, optional
        Added before the activation.
    out : array like x, optional
        Where to write y. May be exactly x or residual, else it must share no memory with an argument.

    Returns
    -------
    array like x
        `out` where given, otherwise a new array in x's memory order.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        If a vector has not the length of x's channel axis, or `out` cannot be written or overlaps an argument in part.
        Nothing has been written then.

    Notes
    -----
    The paper's Algorithm 2, steps 10 and 11. With statistics from `batch_stats` the result is that of
    `batch_norm_train`, bit for bit.
    """
    if misplaced:
        raise by_position(batch_norm_inference, misplaced)
    call = call_on(x, NORMALISE, axis, eps, activation)
    call.mean, call.var, call.weight, call.bias = running_mean, running_var, weight, bias
    call.residual, call.out = residual, out
    check.inference(call)
    return run(call)[0]


@named_arguments
def batch_norm_train(
    x: Array, *misplaced: Never, weight: Array | None = None, bias: Array | None = None,
    running_mean: Array | None = None, running_var: Array | None = None, axis: int = 1, eps: float = 1e-5,
    momentum: float | None = 0.1, num_batches: int | None = None, correction: float = 1,
    ghost_batch_size: int | None = None, activation: ActivationSpec = None, residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchStats]:  # fmt: skip
    """Normalise with the batch's own statistics, and update running ones.

    Parameters
    ----------
    x, weight, bias, axis, activation, residual, out
        As in `batch_norm_inference`. x needs more than one value per channel, or none at all.
    running_mean, running_var : array of shape (C,), float32, float64 or x's dtype, optional
        Updated in place, whatever their strides: running = (1 - momentum) * running + momentum * batch. Both
        or neither, with memory of their own. Arrays that cannot be written: see `update_running`.
    eps : float
        Above 0, inside the square root.
    momentum : float or None
        The weight of this batch, as in PyTorch; any finite number. Keras, Flax and ONNX call the weight of the *old*
        value momentum: their 0.99 is 0.01 here. None is the cumulative average, factor 1 / num_batches.
    num_batches : int, optional
        Batches so far, this one counted; required with momentum=None.
    correction : float
        The batch variance enters the running one as var * count / (count - correction): 1 (default) as in the
        paper and PyTorch, 0 as in ONNX, Keras and Flax.
    ghost_batch_size : int, optional
        Samples (entries of axis 0) that share statistics: each run of that many is a ghost batch, the last may be
        smaller. The results are the same bits as those of one call for each. Running statistics take the merged ones.

    Returns
    -------
    y : array like x
        `out` where given, otherwise a new array in x's memory order.
    stats : BatchStats
        Mean and population variance (float64) and count of the batch; what `batch_norm_backward` asks for. With
        ghost_batch_size mean and var have shape (ghost batches, C), and count is a tuple; `merge_stats(zip(*stats))`
        is the whole's.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        If there is one value per channel (in any ghost batch), a vector has not the length of x's channel axis, a
        buffer cannot be written, or written memory overlaps an argument. Nothing has been written then.

    Notes
    -----
    The paper's Algorithm 1. Running statistics with momentum=None and correction=1 are those of its Algorithm 2. A
    batch without elements leaves them as they are. Ghost batches: Hoffer, Hubara, Soudry (2017), arXiv 1705.08741. What
    other libraries' layers are here, by their defaults:

    ============  =========================  ============================  ==================  =====================
    argument      PyTorch                    Keras                         Flax                ONNX
    ============  =========================  ============================  ==================  =====================
    axis          1                          -1                            -1                  1
    eps           1e-5                       1e-3 (epsilon)                1e-5 (epsilon)      1e-5 (epsilon)
    momentum      0.1                        1 - 0.99                      1 - 0.99            1 - 0.9
    correction    1                          0                             0                   0
    weight, bias  weight, bias               gamma, beta                   scale, bias         scale, B
    running_*     running_mean, running_var  moving_mean, moving_variance  mean, var           input_mean, input_var
    ============  =========================  ============================  ==================  =====================
    """
    if misplaced:
        raise by_position(batch_norm_train, misplaced)
    call = call_on(x, STATS | NORMALISE, axis, eps, activation)
    call.weight, call.bias, call.residual, call.out = weight, bias, residual, out
    if ghost_batch_size is not None:
        call.ghosts = runs("ghost_batch_size", call.problem, ghost_batch_size)
    factor, correction = check.train(call, running_mean, running_var, momentum, num_batches, correction)
    if call.ghosts is not None:
        return _in_ghosts(call, running_mean, running_var, factor, correction)
    y, mean, var, _, _, _ = run(call)
    if running_mean is not None and call.count:
        ema_update_both(running_mean, mean, running_var, var, factor, call.count / (call.count - correction))
    return y, new_tuple(BatchStats, (mean, var, call.count))


def _in_ghosts(
    call: Call, running_mean: Array | None, running_var: Array | None, momentum: float, correction: float
) -> tuple[Array, BatchStats]:
    """A checked call whose ghost batches have statistics of their own."""
    y, means, variances, _, _, _ = run_ghosts(call)
    stats = BatchStats(means, variances, counts(call))  # type: ignore[arg-type]
    if running_mean is not None and call.count:
        mean, var, count = merge([(stats.mean[i, ...], stats.var[i, ...], n) for i, n in enumerate(counts(call))])
        ema_update_both(running_mean, mean, running_var, var, momentum, count / (count - correction))
    return y, stats

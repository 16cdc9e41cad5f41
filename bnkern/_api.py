"""The public functions: signature, documentation, and the few lines that join check, backend and arithmetic.

References to "the paper": S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", arXiv 1502.03167.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from bnkern import _check, _check_vectors, _fold, _merge
from bnkern._args import DTYPES, namespace
from bnkern._dispatch import backend_for
from bnkern._types import Array, BatchNormGrads, BatchStats, GradSums

Stats = BatchStats | Sequence[Any]


def batch_norm_inference(
    x: Array, running_mean: Array, running_var: Array, weight: Array | None = None,
    bias: Array | None = None, *, axis: int = 1, eps: float = 1e-5, activation: str | None = None,
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
        The channel axis: 1 for NC, NCL, NCHW, NCDHW, -1 for NHWC and its kin.
    eps : float
        At least 0, inside the square root.
    activation : {None, "relu"}
        "relu" sets negative results to 0 and keeps NaN.
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
    TypeError, ValueError
        On arguments other than these, before anything is written.

    Notes
    -----
    The paper's Algorithm 2, steps 10 and 11. With statistics from `batch_stats` the result is that of
    `batch_norm_train`, bit for bit.
    """
    p = _check.inference(x, running_mean, running_var, weight, bias, axis, eps, activation, residual, out)
    return backend_for(p, x).inference(p, x, running_mean, running_var, weight, bias, residual, out)


def batch_norm_train(
    x: Array, weight: Array | None = None, bias: Array | None = None, running_mean: Array | None = None,
    running_var: Array | None = None, *, axis: int = 1, eps: float = 1e-5, momentum: float | None = 0.1,
    num_batches: int | None = None, correction: float = 1, activation: str | None = None,
    residual: Array | None = None, out: Array | None = None,
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
        Any finite number. None is the cumulative average, factor 1 / num_batches.
    num_batches : int, optional
        Batches so far, this one counted; required with momentum=None.
    correction : float
        The batch variance enters the running one as var * count / (count - correction): 1 (default) as in the
        paper and PyTorch, 0 as in ONNX and Keras.

    Returns
    -------
    y : array like x
        `out` where given, otherwise a new array in x's memory order.
    stats : BatchStats
        Mean and population variance (float64) and count of the batch; what `batch_norm_backward` asks for.

    Raises
    ------
    TypeError, ValueError
        On arguments other than these, before anything is written.

    Notes
    -----
    The paper's Algorithm 1. Running statistics with momentum=None and correction=1 are those of
    its Algorithm 2. A batch without elements leaves them as they are.
    """
    p, factor, correction = _check.train(
        x, weight, bias, running_mean, running_var, axis, eps, momentum, num_batches, correction,
        activation, residual, out,
    )  # fmt: skip
    backend = backend_for(p, x)
    y, mean, var = backend.train(p, x, weight, bias, residual, out)
    if running_mean is not None and running_var is not None and p.count:
        backend.update_running(running_mean, mean, factor)
        backend.update_running(running_var, var, factor, p.count / (p.count - correction))
    return y, BatchStats(mean, var, p.count)


def batch_norm_backward(
    dy: Array, x: Array, stats: Stats, weight: Array | None = None, bias: Array | None = None, *,
    axis: int = 1, eps: float = 1e-5, frozen: bool = False, activation: str | None = None,
    y: Array | None = None, needs: Collection[str] = ("x", "weight", "bias"), out: Array | None = None,
) -> BatchNormGrads:  # fmt: skip
    """Gradients of `batch_norm_train`, or with frozen=True of `batch_norm_inference`.

    Parameters
    ----------
    dy : array like x
        Gradient with respect to y.
    x, weight, bias, axis, eps, activation
        As in the forward call. bias matters with an activation only.
    stats : BatchStats or (mean, var, count)
        From the forward call; with frozen=True the statistics it used, whose count may be None.
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
        float32. Without activation dresidual is `dy` itself.

    Raises
    ------
    TypeError, ValueError
        On arguments other than these, before anything is written; among them a stats.count that is not the
        number of values per channel of x (parts of a batch: `backward_reduce`, `backward_apply`).

    Notes
    -----
    The chain rule of the paper's section 3, simplified. With xhat = (x - mean) / sqrt(var + eps)
    and sums over the n values of a channel: dbias = sum(dy), dweight = sum(dy * xhat), and dx = weight /
    sqrt(var + eps) * (dy - dbias / n - xhat * dweight / n), or with frozen statistics only the dy.
    """
    p, mean, var, wanted = _check.backward(
        dy, x, stats, weight, bias, axis, eps, frozen, activation, y, needs, out
    )
    dresidual = None
    if "residual" in wanted and not p.relu:
        dresidual, wanted = dy, wanted - {"residual"}
    if not wanted:
        return BatchNormGrads(None, None, None, dresidual)
    backend = backend_for(p, x)
    dx, sum_dy, sum_dy_xhat, masked = backend.backward(
        p, dy, x, mean, var, weight, bias, y, bool(frozen), p.count, wanted, out
    )
    dweight, dbias = _merge.narrowed(
        _parameter_dtype(p, x, weight, bias),
        backend.narrow,
        sum_dy_xhat if "weight" in wanted else None,  # a backend may find one sum on the way to the other
        sum_dy if "bias" in wanted else None,
    )
    return BatchNormGrads(dx, dweight, dbias, masked if dresidual is None else dresidual)


def _parameter_dtype(p: _check.Problem, x: Array, weight: Array | None, bias: Array | None) -> Any:
    for parameter in (weight, bias):
        if parameter is not None:
            return parameter.dtype
    return x.dtype if DTYPES[p.dtype].itemsize >= 4 else namespace(x).float32


# --- the same work in parts -----------------------------------------------------------------------


def batch_stats(x: Array, *, axis: int = 1) -> BatchStats:
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
    TypeError, ValueError
        On arguments other than these.

    Notes
    -----
    The paper's Algorithm 1, steps 1 and 2.
    """
    p = _check.problem(x, axis)
    mean, var = backend_for(p, x).stats(p, x)
    return BatchStats(mean, var, p.count)


def merge_stats(parts: Iterable[Stats]) -> BatchStats:
    """Statistics of a whole from those of its parts, exact for unequal and zero counts.

    Parameters
    ----------
    parts : iterable of BatchStats
        At least one; all of the same kind of array, with the same number of channels. Parts with count 0 have
        no influence, whatever they hold.

    Returns
    -------
    BatchStats
        New arrays, float64.

    Raises
    ------
    TypeError, ValueError
        On arguments other than these.

    Notes
    -----
    Chan, Golub, LeVeque (1983): with n, mean, var of the parts, mean = sum(n_k mean_k) / n and
    var = sum(n_k var_k + n_k (mean_k - mean)^2) / n, taken about the first part's mean.
    """
    return _merge.merge(_check_vectors.merge(parts))


def update_running(
    running_mean: Array, running_var: Array, stats: Stats, *, momentum: float | None = 0.1,
    num_batches: int | None = None, correction: float = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """New running statistics; the pure twin of what `batch_norm_train` does in place.

    Parameters
    ----------
    running_mean, running_var : array of shape (C,), float32, float64, float16 or bfloat16
        The old ones. Not changed, and may be read-only.
    stats : BatchStats or (mean, var, count)
        Of the batch, or merged from its parts. Count 0 changes nothing.
    momentum, num_batches, correction
        As in `batch_norm_train`; correction is below the count.

    Returns
    -------
    mean, var : array of shape (C,)
        New arrays in the dtypes of the old ones.

    Raises
    ------
    TypeError, ValueError
        On arguments other than these.

    Notes
    -----
    running = (1 - momentum) * running + momentum * batch, in float64, with var * count / (count -
    correction) for the variance. momentum=None and correction=1 give the averages of the paper's Algorithm 2,
    step 10.
    """
    checked, factor, correction = _check_vectors.update(
        running_mean, running_var, stats, momentum, num_batches, correction
    )
    return _merge.update(running_mean, running_var, checked, factor, correction)


def backward_reduce(
    dy: Array, x: Array, stats: Stats, weight: Array | None = None, bias: Array | None = None, *,
    axis: int = 1, eps: float = 1e-5, activation: str | None = None, y: Array | None = None,
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
    TypeError, ValueError
        On arguments other than these.

    Notes
    -----
    The sums in the chain rule of the paper's section 3: sum(dy) and sum(dy * (x - mean) / sqrt(var + eps)).
    """
    p, mean, var = _check.reduce(dy, x, stats, weight, bias, axis, eps, activation, y)
    return GradSums(*backend_for(p, x).reduce(p, dy, x, mean, var, weight, bias, y))


def backward_apply(
    dy: Array, x: Array, stats: Stats, sums: GradSums | Sequence[Any], weight: Array | None = None,
    bias: Array | None = None, *, axis: int = 1, eps: float = 1e-5, activation: str | None = None,
    y: Array | None = None, out: Array | None = None,
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
    TypeError, ValueError
        On arguments other than these, before anything is written.

    Notes
    -----
    dx = weight / sqrt(var + eps) * (dy - sum_dy / n - xhat * sum_dy_xhat / n): the paper's
    section 3, simplified.
    """
    p, mean, var, pair, count = _check.apply(dy, x, stats, sums, weight, bias, axis, eps, activation, y, out)
    dx, _ = backend_for(p, x).input_grad(
        p, dy, x, mean, var, weight, bias, y, pair, count, out, True, False
    )
    return dx


# --- deployment -----------------------------------------------------------------------------------


def fold_batch_norm(
    conv_weight: Array, conv_bias: Array | None, running_mean: Array, running_var: Array,
    weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, out_axis: int = 0,
    groups: int = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """Fold inference batch normalisation into the linear or convolution layer before it.

    Parameters
    ----------
    conv_weight : array of rank 2 or more, float32, float64, float16 or bfloat16
        Linear (out, in) and convolution (out, in / groups, ...): out_axis=0. Transposed convolution
        (in, out / groups, ...): out_axis=1. Output channels last: out_axis=-1.
    conv_bias : array of shape (C,) or None
        The layer's bias; C is the number of output channels, of all groups together.
    running_mean, running_var : array of shape (C,), float32, float64 or conv_weight's dtype
    weight, bias : array of shape (C,), float32, float64 or conv_weight's dtype, optional
        gamma and beta.
    eps : float
        At least 0.
    out_axis : int
        The axis of the output channels.
    groups : int
        Of the convolution.

    Returns
    -------
    weight, bias : array
        New arrays in conv_weight's dtype; the layer with these does both.

    Raises
    ------
    TypeError, ValueError
        On arguments other than these.

    Notes
    -----
    With s = weight / sqrt(running_var + eps): W * s and (conv_bias - running_mean) * s + bias, in
    float64. The linear form is step 11 of the paper's Algorithm 2.
    """
    eps, axis, groups = _check_vectors.fold(
        conv_weight, conv_bias, running_mean, running_var, weight, bias, eps, out_axis, groups
    )
    return _fold.fold(conv_weight, conv_bias, running_mean, running_var, weight, bias, eps, axis, groups)

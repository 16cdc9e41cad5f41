"""The public functions of bnkern.jax: what they take is checked, and handed to the rules with their derivatives."""

from __future__ import annotations

from typing import Any, Never

import jax

from bnkern._activations import ActivationSpec
from bnkern._call import NORMALISE, STATS
from bnkern._dtypes import Array
from bnkern._types import BatchStats
from bnkern._words import by_position, named_arguments
from bnkern.checks.problem import call_on
from bnkern.engines.xla import choice, formula, forward, rules
from bnkern.engines.xla.passes import alike, in_shard_map
from bnkern.jax import _checks as check
from bnkern.jax._result import BatchNormTrain


@named_arguments
def batch_norm_inference(
    x: Array, *misplaced: Never, running_mean: Array, running_var: Array, weight: Array | None = None,
    bias: Array | None = None, axis: int = 1, eps: float = 1e-5, activation: ActivationSpec = None,
    residual: Array | None = None,
) -> Array:  # fmt: skip
    """Normalise with given statistics: y = weight * (x - running_mean) / sqrt(running_var + eps) + bias.

    Parameters
    ----------
    x : array of rank 2 or more, float32, float64, float16 or bfloat16
    running_mean, running_var : array of shape (C,), float32, float64 or x's dtype
    weight, bias : array of shape (C,), float32, float64 or x's dtype, optional
        gamma (default 1) and beta (default 0), each on its own.
    axis : int
        The channel axis: 1 for NC, NCL, NCHW, NCDHW, -1 for NC, NLC, NHWC, NDHWC; any other works too.
    eps : float
        At least 0, inside the square root.
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        As in `bnkern.batch_norm_inference`.
    residual : array like x, optional
        Added before the activation.

    Returns
    -------
    array like x
        The bits that `bnkern.batch_norm_inference` gives on NumPy arrays. Differentiable in reverse mode, as often as
        wanted, with respect to every array.

    Raises
    ------
    TypeError
        If a dtype is none of those above, or an argument is given by position; from JAX, in forward mode.
    ValueError
        If an array has not the shape that x asks for.

    Notes
    -----
    arXiv 1502.03167, Algorithm 2, steps 10 and 11.
    """
    if misplaced:
        raise by_position(batch_norm_inference, misplaced)
    given = {"mean": running_mean, "var": running_var, "weight": weight, "bias": bias, "residual": residual}
    given = {name: check.as_jax(value) for name, value in given.items()}
    call = call_on(check.as_jax(x), NORMALISE, axis, eps, activation)
    named = given | {"running_mean": given["mean"], "running_var": given["var"]}
    check.vectors(call, ("running_mean", "running_var", "weight", "bias"), 2, named)
    if not call.problem.size or choice.path() == "array_api":
        return formula.inference(call, given)
    a = {"x": call.x} | {name: value for name, value in given.items() if value is not None}
    return forward.inference(rules.Static(call.problem, manual=in_shard_map(), path=choice.path()), alike(a))


@named_arguments
def batch_norm_train(
    x: Array, *misplaced: Never, weight: Array | None = None, bias: Array | None = None,
    running_mean: Array | None = None, running_var: Array | None = None, axis: int = 1, eps: float = 1e-5,
    momentum: Any = 0.1, num_batches: Any = None, correction: float = 1, activation: ActivationSpec = None,
    residual: Array | None = None, axis_name: Any = None,
) -> BatchNormTrain:  # fmt: skip
    """Normalise with the batch's own statistics; the running ones come back as new arrays.

    Parameters
    ----------
    x, weight, bias, axis, activation, residual
        As in `batch_norm_inference`. x needs more than one value per channel, or none at all.
    running_mean, running_var : array of shape (C,), float32, float64 or x's dtype, optional
        The old ones, both or neither. Not changed.
    eps : float
        Above 0, inside the square root.
    momentum : float, JAX scalar (may be traced) or None
        The weight of this batch, as in PyTorch; Flax calls the weight of the *old* value momentum: its 0.99 is 0.01
        here. None is the cumulative average, factor 1 / num_batches.
    num_batches : int or JAX scalar (may be traced), optional
        Batches so far, this one counted; required with momentum=None.
    correction : float
        The batch variance enters the running one as var * count / (count - correction): 1 (default) as in PyTorch, 0
        as in Flax.
    axis_name : name of a mapped axis, or tuple of names, optional
        Of `jax.shard_map` or `jax.vmap`: the parts of the batch along it are normalised as one batch. Every part has
        the same shape, since JAX runs one program on all. count, mean and M2 of each part are gathered and merged in
        the order of the parts (Chan, Golub and LeVeque 1983), the sums of the backward pass likewise. With vmap, take
        the gradient inside the mapped function.

    Returns
    -------
    BatchNormTrain
        (y, stats, running_mean, running_var): y like x; the batch's `BatchStats`, float64 where JAX has it
        (`jax_enable_x64`), else rounded to float32; the new running statistics in the dtypes of the old ones, None
        where none were given. y and the running statistics are the bits that `bnkern.batch_norm_train` gives on NumPy
        arrays, and so are the gradients, with and without `jax_enable_x64`.

        Differentiable in reverse mode, as often as wanted, with respect to x, weight, bias and residual, through y and
        through stats (inside `jax.shard_map` and with `axis_name` through y alone). The running statistics are
        constants for differentiation.

    Raises
    ------
    TypeError
        If a dtype is none of those above, or an argument is given by position; from JAX, in forward mode.
    ValueError
        If there is one value per channel, or an array has not the shape that x asks for. Where momentum or num_batches
        is an array, its value is looked at when the program runs: one that is not finite, or below 1, is JAX's runtime
        error then.

    Notes
    -----
    arXiv 1502.03167, Algorithm 1, and the running statistics of Algorithm 2 with momentum=None and correction=1.

    Examples
    --------
    >>> y, stats, mean, var = bnkern.jax.batch_norm_train(x, weight=w, bias=b, running_mean=mean, running_var=var)
    """
    if misplaced:
        raise by_position(batch_norm_train, misplaced)
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    given = {name: check.as_jax(value) for name, value in (given | {"residual": residual}).items()}
    call = call_on(check.as_jax(x), STATS | NORMALISE, axis, eps, activation)
    parts = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    correction = check.training(call, parts, running_mean, running_var, correction)
    check.vectors(call, ("weight", "bias", "running_mean", "running_var"), 0, given)
    weight_of_batch, scalars = check.factor(momentum, num_batches)
    static = rules.Static(
        call.problem, axis_name=axis_name, parts=parts, manual=in_shard_map(), correction=correction,
        momentum=weight_of_batch, path=choice.path(),
    )  # fmt: skip
    if not call.problem.size or choice.path() == "array_api":
        found = formula.train(static, call, given | scalars)
    else:
        a = {"x": call.x} | {name: value for name, value in given.items() if value is not None}
        found = forward.train(static, alike(a) | (scalars if running_mean is not None else {}))
    running = [jax.lax.stop_gradient(found.get(name)) for name in ("running_mean", "running_var")]
    stats = found["mean"], found["var"]
    if axis_name is not None or static.manual:
        stats = jax.lax.stop_gradient(stats)
    return BatchNormTrain(found["y"], BatchStats(*stats, static.total), *running)

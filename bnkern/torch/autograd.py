"""Gradients of the operators, and the gradients of those.

First order: the kernels, by the operator `batch_norm_backward`. Second order: plain PyTorch, out of place, in float64,
so that it can be differentiated again. For that it computes the statistics from x anew: the saved ones know nothing
of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnkern._activations import BY_NAME
from bnkern.torch import eager, functorch, ops, values, vmap

Grads = tuple[Tensor | None, ...]


# ---------------------------------------------------------------- first order


def setup_train(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, residual, *how = inputs
    y, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    _remember(ctx, x, mean, var, weight, bias, residual, y, how)


def setup_inference(ctx: Any, inputs: Any, output: Any) -> None:
    x, mean, var, weight, bias, residual, *how = inputs
    _remember(ctx, x, mean, var, weight, bias, residual, output, how)


def _remember(ctx: Any, x: Any, mean: Any, var: Any, weight: Any, bias: Any, residual: Any, y: Any, how: Any) -> None:
    """What the gradient is made of: y only where a residual hides on which side of the activation z was."""
    ctx.set_materialize_grads(False)
    ctx.how = tuple(how)
    ctx.save_for_backward(x, mean, var, weight, bias, y if residual is not None and how[1] else None)


def train_backward(ctx: Any, dy: Tensor | None, dmean: None, dvar: None) -> Grads:
    need = ctx.needs_input_grad
    return *_gradients(ctx, dy, False, need[:4]), None, None, None


def inference_backward(ctx: Any, dy: Tensor | None) -> Grads:
    need = ctx.needs_input_grad
    dx, *others = _gradients(ctx, dy, True, (need[0], *need[3:6]))
    return dx, None, None, *others, None, None, None


def _gradients(ctx: Any, dy: Tensor | None, frozen: bool, need: tuple[bool, ...]) -> Grads:
    if dy is None:
        return None, None, None, None
    active = ctx.how[1] != ""
    computed = (*need[:3], need[3] and active)
    found: Grads = (None, None, None, None)
    if any(computed):
        found = called("batch_norm_backward", dy, *ctx.saved_tensors, *ctx.how, frozen, *computed)
    dx, dweight, dbias, dresidual = (g if needed else None for g, needed in zip(found, computed, strict=True))
    return dx, dweight, dbias, dy if need[3] and not active else dresidual


# ---------------------------------------------------------------- second order


def setup_backward(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, eps, activation, slope, frozen, need_x, need_weight, need_bias, need_residual = inputs
    ctx.set_materialize_grads(False)
    needed = (need_x, need_weight, need_bias, need_residual)
    ctx.mark_non_differentiable(*(g for g, n in zip(output, needed, strict=True) if not n))
    ctx.how = (eps, activation, slope, frozen)
    ctx.save_for_backward(*tensors)


def backward_backward(ctx: Any, v: Any, p: Any, q: Any, u: Any) -> Grads:
    need = ctx.needs_input_grad
    dy, x, mean, var, weight, bias, y = ctx.saved_tensors
    eps, activation, slope, frozen = ctx.how
    ddy, dx, dweight = second_order(
        dy, x, mean, var, weight, bias, y, eps, activation, slope, frozen, v, p, q, u
    )  # fmt: skip
    return (
        ddy if need[0] else None, dx if need[1] else None, None, None, dweight if need[4] else None, *[None] * 10
    )  # fmt: skip


def second_order(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, y: Tensor | None,
    eps: float, activation: str, slope: float, frozen: bool,
    v: Tensor | None, p: Tensor | None, q: Tensor | None, u: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients with respect to dy, x and weight of <v, dx> + <p, dweight> + <q, dbias> + <u, dresidual>.

    With r = 1 / sqrt(var + eps), xhat = (x - mean) * r, S the mean over a channel, and P(a) = a - S(a) - xhat *
    S(a * xhat), with frozen statistics P(a) = a: dx = weight * r * P(g), dweight = sum g * xhat, dbias = sum g, and
    dresidual = g. P is its own adjoint, so the gradient with respect to g is weight * r * P(v) + p * xhat + q + u. x
    acts through xhat, by h = p * g - weight * r * (S(g * xhat) * v + S(v * xhat) * g), and through r. An activation is
    linear in pieces: g is dy times a constant, which has no gradient of its own.
    """
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    axes = [a for a in range(x.dim()) if a != 1]
    n = x.numel() // x.shape[1] if x.shape[1] else 0
    if not n:
        none = [None if t is None else torch.zeros_like(t) for t in (dy, x, weight)]
        return none[0], none[1], none[2]

    def row(c: Tensor) -> Tensor:
        return c.to(wide).reshape(-1, *[1] * (x.dim() - 2))

    def over(a: Tensor) -> Tensor:
        return a.mean(axes, keepdim=True)

    def project(a: Tensor) -> Tensor:
        return a if frozen else a - over(a) - xhat * over(a * xhat)

    behind = _behind(activation, slope, x, mean, var, weight, bias, y, eps)
    xw, g = x.to(wide), behind(dy.to(wide))
    centred = xw - (row(mean) if frozen else over(xw))
    r = ((row(var) if frozen else over(centred * centred)) + eps).rsqrt()
    xhat = centred * r
    scale = r if weight is None else row(weight) * r
    to_g, h = torch.zeros_like(xw), torch.zeros_like(xw)
    dx = dweight = None
    if v is not None:
        vw = v.to(wide)
        along = over(vw * project(g))  # S(v * P(g))
        to_g = to_g + scale * project(vw)
        if weight is not None:
            dweight = (r * along * n).reshape(-1).to(weight.dtype)
        if not frozen:
            h = h - scale * (over(g * xhat) * vw + over(vw * xhat) * g)
            dx = -scale * r * along * xhat
    if p is not None:
        to_g, h = to_g + row(p) * xhat, h + row(p) * g
    if q is not None:
        to_g = to_g + row(q)
    if u is not None:
        to_g = to_g + u.to(wide)
    through = r * project(h)
    dx = through if dx is None else dx + through
    return behind(to_g).to(dy.dtype), dx.to(x.dtype), dweight


def _behind(
    activation: str, slope: float, x: Any, mean: Any, var: Any, weight: Any, bias: Any, y: Any, eps: float
) -> Any:
    """The activation's gradient, as a linear function; by z as the forward stored it, to the bit."""
    if not activation:
        return lambda a: a
    with torch.no_grad():
        z = y if y is not None else ops.batch_norm_inference(x, mean, var, weight, bias, None, eps, "", 0.0)
    rule = BY_NAME[activation].backward
    return lambda a: rule(torch, z, a, slope)


ops.batch_norm_train.register_autograd(train_backward, setup_context=setup_train)
ops.batch_norm_inference.register_autograd(inference_backward, setup_context=setup_inference)
ops.batch_norm_backward.register_autograd(backward_backward, setup_context=setup_backward)


# ---------------------------------------------------------------- how an operator is called

functorch.add_twin(ops.batch_norm_train, train_backward, setup_train, vmap.train)
functorch.add_twin(ops.batch_norm_inference, inference_backward, setup_inference, vmap.inference)
functorch.add_twin(ops.batch_norm_backward, backward_backward, setup_backward, vmap.backward)

_EAGER: dict[str, tuple[Any, Any]] = {  # without and with a graph
    "batch_norm_train": (values.train, eager.function("train", values.train, train_backward, setup_train)),
    "batch_norm_inference": (
        values.inference, eager.function("inference", values.inference, inference_backward, setup_inference)
    ),
    "batch_norm_backward": (values.backward, ops.batch_norm_backward),  # differentiated again: by the operator
    "update_running": (values.update, values.update),
}  # fmt: skip


def called(name: str, *arguments: Any) -> Any:
    """The operator on these arguments; under torch.func its twin, and in plain eager mode the values themselves."""
    if eager.unwatched(arguments):
        return eager.recorded(name, _EAGER[name][torch.is_grad_enabled()], arguments)
    return functorch.called(getattr(ops, name), *arguments)

"""What the operators compute: ops.py makes operators of these functions, eager.py calls them as they are.

The schemas of the operators are made of the annotations: keep them plain. `activation` is "" where there is none;
`slope` is leaky_relu's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bnkern._activations import ActivationSpec
from bnkern._api.backward import batch_norm_backward as _backward
from bnkern._api.forward import batch_norm_inference as _inference
from bnkern._api.forward import batch_norm_train as _train
from bnkern._api.parts import update_running as _update
from bnkern._vectors import ema_update_both
from bnkern.arrays.torch import mark_written
from bnkern.checks.parameters import momentum_factor

_FLOATS = (torch.float32, torch.float64)
NEEDS = ("x", "weight", "bias", "residual")


def train(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    eps: float, activation: str, slope: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y, and the batch's mean and population variance."""
    spec = spec_of(activation, slope)
    views = _views(x, weight, bias, residual)
    if views is None:
        y, stats = _train(x, weight=weight, bias=bias, eps=eps, activation=spec, residual=residual)
        return _strided(y, x), stats.mean, stats.var
    seen, w, b, added = views
    z, (mean, var, _) = _train(seen, weight=w, bias=b, eps=eps, activation=spec, residual=added)
    return _strided(_tensor(z), x), _tensor(mean), _tensor(var)


def inference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, eps: float, activation: str, slope: float,
) -> Tensor:  # fmt: skip
    """y by given statistics."""
    tensors = x, running_mean, running_var, weight, bias, residual
    views = _views(*tensors)
    seen, mean, var, w, b, added = views or tensors
    y = _inference(
        seen, running_mean=mean, running_var=var, weight=w, bias=b, eps=eps, activation=spec_of(activation, slope),
        residual=added,
    )  # fmt: skip
    return _strided(_tensor(y) if views else y, x)


def backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, y: Tensor | None,
    eps: float, activation: str, slope: float, frozen: bool,
    needs_x: bool, needs_weight: bool, needs_bias: bool, needs_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dweight, dbias, dresidual; an empty tensor for what is not needed.

    dresidual is asked for behind an activation alone: without one it is dy, and an operator may not return its input.
    """
    wanted = (needs_x, needs_weight, needs_bias, needs_residual)
    needs = tuple(name for name, needed in zip(NEEDS, wanted, strict=True) if needed)
    count = None if frozen else x.numel() // x.shape[1] if x.shape[1] else 0
    tensors = dy, x, mean, var, weight, bias, y
    views = _views(*tensors)
    g, seen, m, v, w, b, z = views or tensors
    grads = _backward(
        g, seen, (m, v, count), weight=w, bias=b, eps=eps, frozen=frozen, activation=spec_of(activation, slope), y=z,
        needs=needs,
    )  # fmt: skip
    dx, dweight, dbias, dresidual = map(_tensor, grads) if views else grads
    return (
        _strided(dx, x) if needs_x else x.new_empty(0),
        dweight if needs_weight else x.new_empty(0),
        dbias if needs_bias else x.new_empty(0),
        _strided(dresidual, x) if needs_residual else x.new_empty(0),
    )


def update(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int,
    momentum: float | None, num_batches: Tensor | None,
) -> None:  # fmt: skip
    """Moves running statistics towards a batch's; momentum None is the average over `num_batches` batches."""
    batches = None if momentum is not None or num_batches is None else int(num_batches)
    if count > 1 and all(_plain(buffer, mean) for buffer in (running_mean, running_var)):
        factor = momentum_factor(momentum, batches)
        views = _views(running_mean, mean, running_var, var)
        rm, m, rv, v = views or (running_mean, mean, running_var, var)
        ema_update_both(rm, m, rv, v, factor, count / (count - 1))
        if views:
            mark_written(running_mean)
            mark_written(running_var)
        return
    given = {"running_mean": running_mean, "running_var": running_var, "momentum": momentum, "num_batches": batches}
    new = _update((mean, var, count), **given)  # finds the words for what does not fit
    running_mean.copy_(new[0])
    running_var.copy_(new[1])


def _plain(buffer: Tensor, like: Tensor) -> bool:
    """Whether a buffer can be written where it lies without a further question."""
    fits = type(buffer) is Tensor and buffer.shape == like.shape and buffer.device == like.device
    free = not buffer.requires_grad and not buffer.is_inference()  # else PyTorch says whether it may be written
    return fits and free and buffer.is_contiguous() and buffer.dtype in _FLOATS


def _views(*tensors: Tensor | None) -> list[Any] | None:
    """The tensors as NumPy has them, which a call asks the fewest questions; None where one is of another kind."""
    arrays: list[Any] = []
    for t in tensors:
        if t is not None:
            known = (type(t) is Tensor or type(t) is Parameter) and t.is_cpu and t.dtype in _FLOATS
            if not known or t.layout is not torch.strided or t.is_neg():
                return None
        arrays.append(None if t is None else t.detach().numpy())
    return arrays


def _tensor(result: Any) -> Any:
    return None if result is None else torch.from_numpy(result)


def spec_of(activation: str, slope: float) -> ActivationSpec:
    """What bnkern's functions take, of what a schema can hold."""
    if not activation:
        return None
    return ("leaky_relu", slope) if activation == "leaky_relu" else activation  # type: ignore[return-value]


def _strided(result: Tensor, x: Tensor) -> Tensor:
    """A result with the strides that PyTorch gives to `empty_like(x)`, which the compiler relies on.

    bnkern keeps x's memory order too; the two can differ where x has gaps, and in what the strides of axes of length 1
    are said to be, where no element moves.
    """
    stride = x.stride()
    if result.stride() == stride:
        return result
    stride = torch.empty_like(x, device="meta").stride()
    there = [(s, t) for s, t, n in zip(result.stride(), stride, x.shape, strict=True) if n > 1]
    if all(s == t for s, t in there):
        return result.as_strided(x.shape, stride)
    return torch.empty_like(x).copy_(result)

"""torch.vmap: each mapped element is a batch of its own, with statistics of its own.

The mapped axis becomes part of the channels, (N, B * C, ...), and one call of the kernels computes all elements.
Running statistics must be mapped as well: one buffer cannot take the updates of several batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnkern.torch import ops
from bnkern.torch.functorch import called


def _like_x(a: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """(N, C, ...) for each element, as (N, B * C, ...)."""
    if a is None:
        return None
    a = a.movedim(dim, 1) if dim is not None else a.unsqueeze(1).expand(-1, size, *a.shape[1:])
    return a.flatten(1, 2)


def _per_channel(v: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """(C,) for each element, as (B * C,)."""
    if v is None:
        return None
    return (v.movedim(dim, 0) if dim is not None else v.expand(size, -1)).reshape(-1)


def _apart(result: Tensor, size: int) -> Tensor:
    """Channels of all elements as (..., B, C, ...)."""
    return result.unflatten(1 if result.dim() > 1 else 0, (size, -1))


def train(info: Any, dims: Any, x: Any, weight: Any, bias: Any, residual: Any, *how: Any) -> Any:
    b = info.batch_size
    y, mean, var = called(
        ops.batch_norm_train, _like_x(x, dims[0], b), _per_channel(weight, dims[1], b), _per_channel(bias, dims[2], b),
        _like_x(residual, dims[3], b), *how,
    )  # fmt: skip
    return (_apart(y, b), _apart(mean, b), _apart(var, b)), (1, 0, 0)


def inference(
    info: Any, dims: Any, x: Any, mean: Any, var: Any, weight: Any, bias: Any, residual: Any, *how: Any
) -> Any:
    b = info.batch_size
    vectors = (_per_channel(v, d, b) for v, d in zip((mean, var, weight, bias), dims[1:5], strict=True))
    y = called(ops.batch_norm_inference, _like_x(x, dims[0], b), *vectors, _like_x(residual, dims[5], b), *how)
    return _apart(y, b), 1


def backward(
    info: Any, dims: Any, dy: Any, x: Any, mean: Any, var: Any, weight: Any, bias: Any, y: Any, *how: Any
) -> Any:
    b = info.batch_size
    vectors = (_per_channel(v, d, b) for v, d in zip((mean, var, weight, bias), dims[2:6], strict=True))
    arrays = (_like_x(a, d, b) for a, d in zip((dy, x), dims[:2], strict=True))
    results = called(ops.batch_norm_backward, *arrays, *vectors, _like_x(y, dims[6], b), *how)
    needed = how[-4:]
    where = (1, 0, 0, 1)
    outputs = tuple(_apart(g, b) if n else g for g, n in zip(results, needed, strict=True))
    return outputs, tuple(d if n else None for d, n in zip(where, needed, strict=True))


def update(
    info: Any, dims: Any, running_mean: Any, running_var: Any, mean: Any, var: Any, count: int, *how: Any
) -> Any:
    momentum, num_batches = how
    if None in dims[:2]:
        raise RuntimeError(
            "running_mean, running_var: expected buffers that torch.vmap maps too, one for each element, got shared "
            "ones, which cannot take the updates of several batches; stack them (torch.func.stack_module_state), use "
            "track_running_stats=False, or call under bnkern.torch.no_running_update()"
        )
    given = (running_mean, running_var, mean, var, num_batches)
    ways = (*dims[:4], dims[6])
    for i in range(info.batch_size):
        rm, rv, m, v, batches = (t if d is None else t.select(d, i) for t, d in zip(given, ways, strict=True))
        called(ops.update_running, rm, rv, m, v, count, momentum, batches)
    return None, None


torch.library.register_vmap("bnkern::batch_norm_train", train)
torch.library.register_vmap("bnkern::batch_norm_inference", inference)
torch.library.register_vmap("bnkern::batch_norm_backward", backward)
torch.library.register_vmap("bnkern::update_running", update)

"""The custom operators `bnkern::*`: what PyTorch's dispatcher, compiler and exporter see of the kernels.

Each is a pure function of tensors but `update_running`, which writes two buffers and returns nothing. They are apart
because PyTorch lets an operator be differentiated or write, not both; this way compile and export know exactly what
is written, a checkpoint can repeat the calculation without the write, and functorch can map both. What depends on
values (a count of batches) is read inside an operator, so no graph breaks on it.

What they compute stands in values.py, gradients in autograd.py, the rules for vmap in vmap.py.
"""

import torch
from torch import Tensor

from bnkern.torch import values

batch_norm_train = torch.library.custom_op("bnkern::batch_norm_train", values.train, mutates_args=())
batch_norm_inference = torch.library.custom_op("bnkern::batch_norm_inference", values.inference, mutates_args=())
batch_norm_backward = torch.library.custom_op("bnkern::batch_norm_backward", values.backward, mutates_args=())
update_running = torch.library.custom_op(
    "bnkern::update_running", values.update, mutates_args=("running_mean", "running_var")
)


@batch_norm_train.register_fake
def _(x, weight, bias, residual, eps, activation, slope):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), *(_vector(x, _wide(x)) for _ in range(2))


@batch_norm_inference.register_fake
def _(x, running_mean, running_var, weight, bias, residual, eps, activation, slope):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@batch_norm_backward.register_fake
def _(dy, x, mean, var, weight, bias, y, eps, activation, slope, frozen, *wanted):  # type: ignore[no-untyped-def]
    given = weight if weight is not None else bias
    dtype = given.dtype if given is not None else x.dtype if x.dtype.itemsize >= 4 else torch.float32
    like_x = (True, False, False, True)
    return tuple(
        x.new_empty(0) if not needed else torch.empty_like(x) if like else _vector(x, dtype)
        for like, needed in zip(like_x, wanted, strict=True)
    )


@update_running.register_fake
def _(running_mean, running_var, mean, var, count, momentum, num_batches):  # type: ignore[no-untyped-def]
    return None


def _vector(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape[1], dtype=dtype)


def _wide(x: Tensor) -> torch.dtype:
    """What statistics come in: float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64

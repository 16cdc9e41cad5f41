"""`batch_norm` with the signature and the meaning of torch.nn.functional's, on bnkern's kernels."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from bnkern._activations import ActivationSpec, parse
from bnkern.torch import autograd


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5, *,
    activation: ActivationSpec = None, residual: Tensor | None = None, num_batches_tracked: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Batch normalisation as torch.nn.functional.batch_norm, optionally with what follows it in one sweep.

    Parameters
    ----------
    input : tensor of shape (N, C) or (N, C, ...), float32, float64, bfloat16 or float16
        Any strides; the result has input's memory format.
    running_mean, running_var : tensor of shape (C,), or None
        With training=True updated where given (both or neither), with training=False what is normalised by.
    weight, bias : tensor of shape (C,), float32, float64 or input's dtype, optional
    training : bool
        Whether to normalise by the batch's own statistics.
    momentum : float or None
        The weight of this batch in the running statistics; None is the cumulative average, which needs
        `num_batches_tracked`.
    eps : float
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        Applied to the result, in the same sweep. Not in torch.nn.functional.
    residual : tensor, optional
        Added before the activation. In the same sweep where it has input's shape and dtype, otherwise as PyTorch adds.
        Not in torch.nn.functional.
    num_batches_tracked : integer tensor without dimensions, optional
        Batches so far, this one counted. Not in torch.nn.functional.

    Returns
    -------
    tensor like input

    Raises
    ------
    ValueError
        If there is one value per channel in training, a vector has not input's number of channels, or `activation` is
        none of the above.
    TypeError
        If a dtype is none of the above.

    Notes
    -----
    Gradients, also second ones, are those of section 3 of the paper (arXiv 1502.03167). The batch's mean and variance
    are float64 on CPU and CUDA, whatever input's dtype is.
    """
    if has_torch_function_variadic(input, running_mean, running_var, weight, bias, residual):
        return handle_torch_function(
            batch_norm, (input, running_mean, running_var, weight, bias, residual), input, running_mean, running_var,
            weight=weight, bias=bias, training=training, momentum=momentum, eps=eps, activation=activation,
            residual=residual, num_batches_tracked=num_batches_tracked,
        )  # fmt: skip
    name, slope = _parsed(activation)
    if not is_like(residual, input):
        y = batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps,
            num_batches_tracked=num_batches_tracked,
        )  # fmt: skip
        return activated(y + residual, activation)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                "running_mean, running_var: expected tensors with training=False, which normalises by them, got None; "
                "give them, or training=True"
            )
        return autograd.called(
            "batch_norm_inference", input, running_mean, running_var, weight, bias, residual, eps, name, slope
        )
    count = _count(input)
    if momentum is None and num_batches_tracked is None and running_mean is not None:
        raise ValueError("num_batches_tracked: expected a tensor with momentum=None (cumulative average), got None")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean, running_var: expected both or neither, got one")
    y, mean, var = autograd.called("batch_norm_train", input, weight, bias, residual, eps, name, slope)
    if running_mean is not None and running_var is not None and updates_running():
        given = (running_mean, running_var, mean, var, count, momentum, num_batches_tracked)
        autograd.called("update_running", *given)
    return y


def _count(input: Tensor) -> int:
    """Values per channel; the message for a single one is PyTorch's."""
    count = 1
    for axis, size in enumerate(input.shape):
        if axis != 1:
            count *= size
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    return count


def _parsed(activation: ActivationSpec) -> tuple[str, float]:
    """As the operators' schemas have it; what is no activation raises here, before anything is computed or written."""
    if activation is None:
        return "", 0.0
    parse(activation)
    if isinstance(activation, tuple):
        name, slope = activation
        return name, float(slope)
    return activation, 0.0


def is_like(residual: Tensor | None, input: Tensor) -> bool:
    """Whether the kernels can add it, or there is none: what is of another shape or dtype is added as PyTorch adds."""
    if residual is None:
        return True
    return isinstance(residual, Tensor) and residual.shape == input.shape and residual.dtype == input.dtype


def activated(z: Tensor, activation: ActivationSpec) -> Tensor:
    """The activation as PyTorch computes it, where it cannot be fused."""
    name, slope = _parsed(activation)
    if name == "leaky_relu":
        return torch.nn.functional.leaky_relu(z, slope)
    if name == "relu6":
        return torch.nn.functional.relu6(z)
    return torch.nn.functional.relu(z) if name == "relu" else z


class _Paused(threading.local):
    """How many blocks of `no_running_update` this thread is in."""

    depth = 0


_paused = _Paused()


def updates_running() -> bool:
    """Whether running statistics are updated here. Compiled graphs have no such blocks: they repeat no writes."""
    return torch.compiler.is_compiling() or not _paused.depth


class no_running_update:
    """Context manager: in the block, in this thread, layers in training leave their running statistics as they are.

    Batches are not counted either. For a forward pass that repeats another one (`checkpoint_contexts`), or one on data
    that is not to be remembered. Graphs of torch.compile do not see the block.
    """

    def __enter__(self) -> no_running_update:
        _paused.depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _paused.depth -= 1


def checkpoint_contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """What `torch.utils.checkpoint.checkpoint(..., use_reentrant=False, context_fn=...)` asks for.

    The first pass updates the running statistics, the recomputation does not: they end as without a checkpoint.
    """
    return nullcontext(), no_running_update()

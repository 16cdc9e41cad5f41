"""BatchNorm1d, 2d and 3d, also lazy: subclasses of PyTorch's with the same parameters, buffers, state and messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnkern import _activations
from bnkern._activations import ActivationSpec
from bnkern.torch.functional import batch_norm, updates_running


class FusedForward:
    """The forward of every layer here, before PyTorch's in the order of inheritance.

    Attributes
    ----------
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        Applied to the result in the same sweep. May be set at any time; not part of the state.
    """

    activation: ActivationSpec = None

    def __init__(self, *args: Any, activation: ActivationSpec = None, **options: Any) -> None:
        super().__init__(*args, **options)
        if activation is not None:
            _activations.parse(activation)
            self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: ActivationSpec = None) -> Tensor:
        """Normalise `input`; add `residual`, if given, and apply the activation: this call's, else the layer's."""
        module: Any = self
        module._check_input_dim(input)
        spec = self._applied(activation)
        return self._normalised(input, residual, spec, module._count_batch())

    def _applied(self, activation: ActivationSpec) -> ActivationSpec:
        """A call's activation, else the layer's; checked before the batch is counted."""
        spec = self.activation if activation is None else activation
        if spec is not None:
            _activations.parse(spec)
        return spec

    def _normalised(self, input: Tensor, residual: Tensor | None, activation: ActivationSpec, tracked: bool) -> Tensor:
        module: Any = self
        used = tracked or not module.training
        mean, var = (module.running_mean, module.running_var) if used else (None, None)
        return batch_norm(
            input, mean, var, module.weight, module.bias, module._by_batch(), module.momentum, module.eps,
            activation=activation, residual=residual, num_batches_tracked=module.num_batches_tracked,
        )  # fmt: skip

    def _by_batch(self) -> bool:
        """Whether the batch's own statistics normalise: in training, and where there are no others."""
        module: Any = self
        return module.training or (module.running_mean is None and module.running_var is None)

    def _count_batch(self) -> bool:
        """Whether this call updates running statistics; if so, the batch is counted."""
        module: Any = self
        tracked = module.training and module.track_running_stats and updates_running()
        if tracked and module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
        return tracked

    def extra_repr(self) -> str:
        told: str = super().extra_repr()  # type: ignore[misc]
        return told if self.activation is None else f"{told}, activation={self.activation!r}"


class BatchNorm1d(FusedForward, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d on bnkern's kernels, for input (N, C) or (N, C, L).

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As in torch.nn.BatchNorm1d.
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        Applied to the result in the same sweep.

    Notes
    -----
    `layer(input, residual)` adds the residual before the activation. State and messages are PyTorch's.
    """


class BatchNorm2d(FusedForward, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d on bnkern's kernels, for input (N, C, H, W); parameters as `BatchNorm1d`."""


class BatchNorm3d(FusedForward, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d on bnkern's kernels, for input (N, C, D, H, W); parameters as `BatchNorm1d`."""


class LazyBatchNorm1d(FusedForward, torch.nn.LazyBatchNorm1d):
    """torch.nn.LazyBatchNorm1d: becomes a `BatchNorm1d` at its first input, whose channels it takes."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(FusedForward, torch.nn.LazyBatchNorm2d):
    """torch.nn.LazyBatchNorm2d: becomes a `BatchNorm2d` at its first input, whose channels it takes."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(FusedForward, torch.nn.LazyBatchNorm3d):
    """torch.nn.LazyBatchNorm3d: becomes a `BatchNorm3d` at its first input, whose channels it takes."""

    cls_to_become = BatchNorm3d

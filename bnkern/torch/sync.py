"""SyncBatchNorm: statistics of the batch on all processes of a group, over gloo or whatever carries float64.

Forward, each process sends (count, mean, M2) of its part, once (all_gather), and merges all parts in the same order:
every process has the same bits. Backward, the two sums of the chain rule are added (all_reduce), once. The gradients of
weight and bias are those of the process's own part, as in PyTorch: DistributedDataParallel adds them up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnkern._activations import ActivationSpec
from bnkern._api.forward import batch_norm_inference
from bnkern._api.parts import backward_apply, backward_reduce, batch_stats, merge_stats
from bnkern._types import BatchStats, GradSums
from bnkern.torch import ops
from bnkern.torch.functional import activated, is_like, updates_running
from bnkern.torch.modules import FusedForward


def gathered_stats(stats: BatchStats, group: Any) -> BatchStats:
    """Statistics of all processes' parts: exact for unequal and empty ones, the same bits everywhere."""
    import torch.distributed as dist

    count = stats.mean.new_full((1,), stats.count)
    packed = torch.cat([count, stats.mean, stats.var * stats.count])  # float64: counts are exact to 2^53
    everyone = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, packed, group=group)
    parts = []
    for part in everyone:
        mean, m2 = part[1:].chunk(2)
        n = int(part[0])
        parts.append(BatchStats(mean.clone(), m2 / max(n, 1), n))
    return merge_stats(parts)


def reduced_sums(sums: GradSums, group: Any) -> GradSums:
    """The sums of all processes of the group."""
    import torch.distributed as dist

    packed = torch.cat(sums)
    dist.all_reduce(packed, group=group)
    sum_dy, sum_dy_xhat = packed.chunk(2)
    return GradSums(sum_dy.clone(), sum_dy_xhat.clone())


class _Synchronised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, residual: Any, how: dict[str, Any], group: Any) -> Any:
        stats = gathered_stats(batch_stats(x), group)
        if stats.count == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got one in the group and input size {x.size()}"
            )
        given = {"running_mean": stats.mean, "running_var": stats.var, "weight": weight, "bias": bias}
        y = batch_norm_inference(x, **given, **how, residual=residual)
        ctx.how, ctx.group, ctx.count = how, group, stats.count
        keep = y if residual is not None and how["activation"] is not None else None
        ctx.save_for_backward(x, weight, bias, keep, stats.mean, stats.var)
        ctx.mark_non_differentiable(stats.mean, stats.var)
        return y, stats.mean, stats.var, stats.count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        need_x, need_weight, need_bias, need_residual = ctx.needs_input_grad[:4]
        behind = need_residual and ctx.how["activation"] is not None
        needs = need_x, need_weight, need_bias, behind
        stats = ctx.saved_tensors[4:], ctx.count
        grads = _SynchronisedBackward.apply(dy, *ctx.saved_tensors[:4], stats, needs, ctx.how, ctx.group)
        dx, dweight, dbias, dresidual = grads
        return dx, dweight, dbias, dy if need_residual and not behind else dresidual, None, None


class _SynchronisedBackward(torch.autograd.Function):
    """The gradients as a function of dy, x and weight, so that none of the three is a constant to a second derivative.

    `once_differentiable` would see dy alone.
    """

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Any, bias: Any, y: Any, stats: Any, needs: Any, how: Any, group: Any
    ) -> Any:
        (mean, var), count = stats
        of_batch = BatchStats(mean, var, count)
        given = {"weight": weight, "bias": bias, "y": y, **how}
        need_x, need_weight, need_bias, need_residual = needs
        own = backward_reduce(dy, x, of_batch, **given)
        dx = backward_apply(dy, x, of_batch, reduced_sums(own, group), **given) if need_x else None
        dweight = own.sum_dy_xhat.to(weight.dtype) if need_weight else None
        dbias = own.sum_dy.to(bias.dtype) if need_bias else None
        return dx, dweight, dbias, _behind(dy, y, how["activation"]) if need_residual else None

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "SyncBatchNorm: expected no second derivative (create_graph=True) in a group of several processes, where "
            "there is none; use BatchNorm1d, 2d or 3d for a loss of gradients, or take the gradients that it is made "
            "of without create_graph"
        )


def _behind(dy: Tensor, y: Tensor, activation: Any) -> Tensor:
    """dy behind the activation: what an identity layer's backward would have to give."""
    from bnkern._activations import BY_NAME

    name, slope = activation if isinstance(activation, tuple) else (activation, 0.0)
    return BY_NAME[name].backward(torch, y, dy, slope)


@torch.compiler.disable  # collectives and counts that are values: a graph ends here
def sync_batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    momentum: float | None, eps: float, group: Any, activation: ActivationSpec, residual: Tensor | None,
    num_batches: Tensor | None,
) -> Tensor:  # fmt: skip
    """Normalise by the statistics of the whole group's batch, and update running ones by them."""
    how = {"eps": eps, "activation": activation}
    y, mean, var, count = _Synchronised.apply(input, weight, bias, residual, how, group)
    if running_mean is not None and running_var is not None and updates_running() and count:
        ops.update_running(running_mean, running_var, mean, var, count, momentum, num_batches)
    return y


class SyncBatchNorm(FusedForward, torch.nn.modules.batchnorm._BatchNorm):
    """torch.nn.SyncBatchNorm on bnkern's kernels, on CPU too: in training the statistics are the whole group's.

    No subclass of torch.nn.SyncBatchNorm: DistributedDataParallel refuses those on CPU.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype, bias
        As in torch.nn.SyncBatchNorm.
    activation : None, "relu", "relu6" or ("leaky_relu", slope)

    Notes
    -----
    Parts may be unequal and empty; every process of the group must make the call, forward and backward. In eval,
    without torch.distributed, and in a group of one, it is `BatchNorm2d` for input of any rank from 2. Its gradient
    cannot be differentiated again: that raises.
    """

    def __init__(self, num_features: int, *args: Any, process_group: Any = None, **options: Any) -> None:
        super().__init__(num_features, *args, **options)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: ActivationSpec = None) -> Tensor:
        self._check_input_dim(input)
        spec = self._applied(activation)
        group = self._group()
        tracked = self._count_batch()
        if group is None:
            return self._normalised(input, residual, spec, tracked)
        buffers = (self.running_mean, self.running_var) if tracked else (None, None)
        given = (*buffers, self.weight, self.bias, self.momentum, self.eps, group)
        if is_like(residual, input):
            return sync_batch_norm(input, *given, spec, residual, self.num_batches_tracked)
        return activated(sync_batch_norm(input, *given, None, None, self.num_batches_tracked) + residual, spec)

    def _group(self) -> Any:
        """The processes to synchronise with; None where there is no other."""
        dist = torch.distributed
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

"""`fold`: a model for deployment, whose BatchNorm layers are part of the convolutions and linear layers before them."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
import torch.nn as _nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize

from bnkern._api.deployment import fold_batch_norm
from bnkern.torch.fuse import split_node
from bnkern.torch.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnkern.torch.sync import SyncBatchNorm
from bnkern.torch.trace import (
    FusionReport,
    arguments_by_position,
    called_sequentials,
    has_hooks,
    holders,
    keep_report,
    layer_of,
    reads_of,
    shared_tensors,
    tensors_of,
    traced,
)

_FORWARD = (_nn.Linear, _nn.Conv1d, _nn.Conv2d, _nn.Conv3d)  # exact types: others may use their weight differently
_TRANSPOSED = (_nn.ConvTranspose1d, _nn.ConvTranspose2d, _nn.ConvTranspose3d)
_NORMS = (_nn.BatchNorm1d, _nn.BatchNorm2d, _nn.BatchNorm3d, _nn.SyncBatchNorm, SyncBatchNorm)
_KNOWN = {*_NORMS, BatchNorm1d, BatchNorm2d, BatchNorm3d}


class FoldedLinear(_nn.Linear):
    """A linear layer that a BatchNorm1d was folded into: its channels are the last axis of (N, C) input alone."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        told = "expected 2D input, (N, C): a BatchNorm1d was folded into this linear layer; of (N, C, L) it would "
        torch._assert(input.dim() == 2, told + "normalise axis 1, which is not the layer's result: do not fold there")
        return super().forward(input)


class _Batched:
    """A Conv1d that a BatchNorm1d was folded into: what it makes of (C, L) input, BatchNorm1d takes for (N, C)."""

    def forward(self, input: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        torch._assert(input.dim() == 3, "expected 3D input, (N, C, L): a BatchNorm1d was folded into this convolution")
        result: torch.Tensor = super().forward(input, *args, **options)  # type: ignore[misc]
        return result


class FoldedConv1d(_Batched, _nn.Conv1d):
    __doc__ = _Batched.__doc__


class FoldedConvTranspose1d(_Batched, _nn.ConvTranspose1d):
    __doc__ = _Batched.__doc__


_OF_RANK: dict[type, type] = {
    _nn.Linear: FoldedLinear, _nn.Conv1d: FoldedConv1d, _nn.ConvTranspose1d: FoldedConvTranspose1d,
}  # fmt: skip


def fold(module: _nn.Module) -> _nn.Module:
    """A copy of a model for inference, with BatchNorm folded into the layer before it wherever that is possible.

    Parameters
    ----------
    module : torch.nn.Module
        With BatchNorm layers of PyTorch's or bnkern's. Not changed.

    Returns
    -------
    torch.nn.Module
        A copy in eval mode: a torch.fx.GraphModule, or, where the model cannot be traced, a copy of the same class with
        what its torch.nn.Sequential parts allow. `fusion_report(result)` lists what was folded, and what stays and why.

    Raises
    ------
    ValueError
        If the model cannot be copied, as under the older torch.nn.utils.weight_norm and spectral_norm.

    Notes
    -----
    For convolutions, transposed convolutions and linear layers, grouped or not, with or without a bias, whose result
    goes to the BatchNorm alone: weight * s and (bias - running_mean) * s + beta, s = gamma / sqrt(running_var + eps),
    in float64, rounded once. What `convert(..., fuse=True)` fused, activations and additions, stands alone again.
    """
    if not isinstance(module, _nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    copied = _copy(module).eval()
    found = traced(copied, modes=(False,))
    result: Any
    if isinstance(found, str):
        report, result = FusionReport(left=[("", found)]), copied
        _in_sequentials(copied, report)
    else:
        report, result = FusionReport(), found
        _in_graph(found, report)
    keep_report(result, report)
    return result.eval()


def _copy(module: _nn.Module) -> _nn.Module:
    for name, m in module.named_modules():
        made = [k for k, v in vars(m).items() if isinstance(v, torch.Tensor) and not v.is_leaf]
        if made:
            raise ValueError(
                f"module: expected one that copy.deepcopy can copy, got {name or 'one'} whose {made[0]} was computed "
                "with a gradient; under torch.nn.utils.weight_norm or spectral_norm call remove_weight_norm or "
                "remove_spectral_norm first, otherwise detach it"
            )
    return copy.deepcopy(module)


def _in_graph(made: GraphModule, report: FusionReport) -> None:
    calls: dict[Any, int] = {}
    for node in made.graph.nodes:
        if node.op == "call_module":
            calls[layer_of(made, node)] = calls.get(layer_of(made, node), 0) + 1
    taboo = reads_of(made) | shared_tensors(made)
    for node in list(made.graph.nodes):
        bn = layer_of(made, node)
        if not isinstance(bn, _NORMS):
            continue
        if not arguments_by_position(node):
            report.left.append((str(node.target), "its call has arguments of its own"))
            continue
        before = node.args[0]
        linear = layer_of(made, before)
        reason = _reason(linear, bn, taboo)
        if not reason and (len(before.users) > 1 or calls[linear] > 1):
            reason = "the layer before it is used elsewhere too"
        if reason:
            report.left.append((str(node.target), reason))
            continue
        take_in(linear, bn)
        _replace(made, node, before, bn)
        report.fused.append((str(node.target), f"into {before.target}"))
    made.graph.lint()
    made.delete_all_unused_submodules()
    made.recompile()


def _replace(made: GraphModule, node: Node, before: Node, bn: Any) -> None:
    """The convolution's result instead of the BatchNorm's; what the BatchNorm did besides follows on its own."""
    if getattr(bn, "activation", None) is not None and "activation" not in node.kwargs:
        node.kwargs = {**node.kwargs, "activation": bn.activation}
    split_node(made, node, before)
    node.replace_all_uses_with(before)
    made.graph.erase_node(node)


def _in_sequentials(module: _nn.Module, report: FusionReport) -> None:
    done = set()
    names = {m: name for name, m in module.named_modules()}
    held = holders(module)
    taboo = shared_tensors(module)
    for parent in called_sequentials(module):
        children = list(parent._modules.items())
        for (_, linear), (at, bn) in pairwise(children):
            if isinstance(bn, _NORMS) and not _reason(linear, bn, taboo) and held[linear] == held[bn] == 1:
                take_in(linear, bn)
                activation = getattr(bn, "activation", None)
                setattr(parent, at, _nn.Identity() if activation is None else _layer_of(activation))
                report.fused.append((names[bn], f"into {names[linear]}"))
                done.add(bn)
    for m, name in names.items():
        if isinstance(m, _NORMS) and m not in done:
            reason = "the model was not traced, and it follows no layer in a torch.nn.Sequential called whole"
            report.left.append((name, reason))


def _layer_of(activation: Any) -> _nn.Module:
    if isinstance(activation, tuple):
        return _nn.LeakyReLU(activation[1])
    return {"relu": _nn.ReLU, "relu6": _nn.ReLU6}[activation]()


def _reason(linear: Any, bn: Any, taboo: set[int]) -> str:
    """Why a BatchNorm cannot be folded into what is before it; "" where it can. `taboo`: tensors others use too."""
    if linear is not None and (parametrize.is_parametrized(linear) or _has_weight_hook(linear)):
        return "the layer before it is parametrised (weight_norm, spectral_norm, ...); remove that first, then fold"
    if type(linear) not in _FORWARD + _TRANSPOSED:
        return "no convolution or linear layer is before it"
    if bn.running_mean is None or bn.running_var is None:
        return "it has no running statistics"
    if type(bn) not in _KNOWN:
        return "it is of a class of its own"
    if has_hooks(bn) or has_hooks(linear):
        return "there are hooks on it or on the layer before it"
    if taboo & tensors_of(linear, bn):
        return "a weight or statistic of it, or of the layer before it, is used elsewhere too"
    channels = linear.out_features if type(linear) is _nn.Linear else linear.out_channels
    return "" if bn.num_features == channels else "its channels are not those of the layer before it"


def _has_weight_hook(linear: _nn.Module) -> bool:
    """Whether torch.nn.utils.weight_norm, spectral_norm or pruning makes its weight anew before each call."""
    return any(type(hook).__module__.startswith("torch.nn.utils.") for hook in linear._forward_pre_hooks.values())


def take_in(linear: Any, bn: Any) -> None:
    """Gives a layer the weight and the bias with which it does both."""
    with torch.no_grad():
        weight, bias = fold_batch_norm(
            linear.weight, conv_bias=linear.bias, running_mean=bn.running_mean, running_var=bn.running_var,
            weight=bn.weight, bias=bn.bias, eps=bn.eps, out_axis=1 if type(linear) in _TRANSPOSED else 0,
            groups=getattr(linear, "groups", 1),
        )  # fmt: skip
    kept = linear.weight.requires_grad
    weight = torch.empty_like(linear.weight).copy_(weight)  # empty_like: in channels_last where it was
    linear.weight = _nn.Parameter(weight, requires_grad=kept)
    linear.bias = _nn.Parameter(bias, requires_grad=kept)
    linear.__class__ = _OF_RANK.get(type(linear), type(linear))

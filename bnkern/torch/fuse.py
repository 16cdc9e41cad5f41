"""BatchNorm, an addition and an activation, taken in one sweep: found in a model's graph, or in its Sequential parts.

In a graph the layer is called with the residual and the activation as further arguments; the layer itself does not
change, nor does the model that the graph was made of. What cannot be traced is searched for BatchNorm and activation
side by side in torch.nn.Sequential; there the layer is told its activation and a `Fused` takes the activation's place.
"""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bnkern import _activations
from bnkern._activations import ActivationSpec
from bnkern.torch.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, FusedForward
from bnkern.torch.sync import SyncBatchNorm
from bnkern.torch.trace import (
    FusionReport,
    arguments_by_position,
    called_sequentials,
    fusion_report,
    has_hooks,
    holders,
    keep_report,
    layer_of,
    reads_of,
    tensors_of,
    traced,
    writes,
)

LAYERS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)
_F = torch.nn.functional
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu", torch.relu_: "relu", _F.relu: "relu", _F.relu_: "relu", "relu": "relu", "relu_": "relu",
    _F.relu6: "relu6", _F.leaky_relu: "leaky_relu", _F.leaky_relu_: "leaky_relu",
}  # fmt: skip
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE_ADDITIONS = (operator.iadd, "add_")


class Fused(torch.nn.Identity):
    """Stands where an activation was that the BatchNorm before it applies now."""

    def __init__(self, was: torch.nn.Module) -> None:
        super().__init__()
        self.was = (was,)  # in a tuple: no part of the model

    def extra_repr(self) -> str:
        return f"{type(self.was[0]).__name__} in the layer before"


def fuse(module: torch.nn.Module) -> torch.nn.Module:
    """The model with what can be fused; `fusion_report` of the result says what was."""
    earlier = _earlier(module)
    found = traced(module)
    result = module if isinstance(found, str) else found
    report = FusionReport()
    if isinstance(found, str):
        report.left.append(("", found))
        _in_sequentials(module, report)
    else:
        _in_graph(found, report)
    before = [pair for pair in earlier if pair[0] not in dict(report.fused)]
    report.fused[:0] = before
    report.left = [pair for pair in report.left if pair[0] not in dict(before)]
    keep_report(result, report)
    return result


def _earlier(module: torch.nn.Module) -> list[tuple[str, str]]:
    """What an earlier call fused in this very model, and is fused still."""
    try:
        said = fusion_report(module).fused
    except ValueError:
        return []
    if isinstance(module, GraphModule):
        now = {str(n.target) for n in module.graph.nodes if len(n.args) > 1 or "activation" in n.kwargs}
    else:
        now = {n for n, m in module.named_modules() if getattr(m, "activation", None) is not None}
    return [pair for pair in said if pair[0] in now]


# ---------------------------------------------------------------- which activation


def spec_of_layer(layer: torch.nn.Module | None) -> ActivationSpec:
    """The activation that a layer of PyTorch's is, if a kernel has it."""
    if layer is None or has_hooks(layer):
        return None
    if type(layer) is torch.nn.ReLU:
        return "relu"
    if type(layer) is torch.nn.ReLU6:
        return "relu6"
    return _leaky(layer.negative_slope) if type(layer) is torch.nn.LeakyReLU else None


def _leaky(slope: Any) -> ActivationSpec:
    try:
        _activations.parse(("leaky_relu", slope))
    except (TypeError, ValueError):  # negative, or not a number but a value of the graph
        return None
    return "leaky_relu", float(slope)


def _spec_of_node(made: GraphModule, node: Node) -> ActivationSpec:
    if node.op == "call_module":
        return spec_of_layer(layer_of(made, node))
    name = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if name != "leaky_relu":
        return name  # type: ignore[return-value]
    slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return _leaky(slope)


# ---------------------------------------------------------------- in a graph


def _in_graph(made: GraphModule, report: FusionReport) -> None:
    for node in list(made.graph.nodes):
        layer = layer_of(made, node)
        if isinstance(layer, FusedForward):
            if not arguments_by_position(node) or len(node.args) > 1 or node.kwargs:
                done = "stays: its call has arguments of its own"
            else:
                done = _at(made, node, layer)
            (report.left if done.startswith("stays") else report.fused).append(
                (str(node.target), done.removeprefix("stays: "))
            )
    made.graph.lint()
    made.recompile()


def _at(made: GraphModule, bn: Node, layer: FusedForward) -> str:
    """Fuses what follows a BatchNorm; returns what was fused, or "stays: " and the reason."""
    if type(layer) not in LAYERS:
        return "stays: it is of a class of its own"
    if layer.activation is not None:
        return "stays: it has an activation of its own"
    if has_hooks(layer):
        return "stays: it has hooks, which would see the activation's result"
    if tensors_of(layer) & reads_of(made):
        return "stays: the forward reads its parameters or statistics itself"
    users = list(bn.users)
    if len(users) != 1:
        return f"stays: its result is used {len(users)} times"
    last, residual = users[0], None
    spec = _spec_of_node(made, last)
    if spec is None:
        residual = _other_operand(last, bn)
        if isinstance(residual, str):
            return f"stays: {residual}"
        after = list(last.users)
        spec = _spec_of_node(made, after[0]) if len(after) == 1 else None
        last = after[0] if spec is not None else last
    for node in made.graph.nodes:  # the layer's call moves behind all of them
        if not bn < node < last or node is users[0]:
            continue
        if writes(made, node):
            return f"stays: {node.name} may write in place between it and what follows"
        other = layer_of(made, node)
        if other is not None and tensors_of(layer) & tensors_of(other):
            return f"stays: {node.target} is called between it and what follows, and writes its statistics"
    with made.graph.inserting_before(last):
        arguments = (bn.args[0],) if residual is None else (bn.args[0], residual)
        fused = made.graph.call_module(str(bn.target), arguments, {} if spec is None else {"activation": spec})
    last.replace_all_uses_with(fused)
    for node in dict.fromkeys((last, *users, bn)):  # the users' own users first
        made.graph.erase_node(node)
    return " + ".join(["addition"] * (residual is not None) + [_told(spec)] * (spec is not None))


def _other_operand(add: Node, bn: Node) -> Node | str:
    """What an addition adds to a BatchNorm's result; or why it is none that can be fused."""
    if add.op == "call_module" and len(add.args) == 2 and add.args[1] is bn:
        return f"its result is the residual of {add.target}"
    if add.op not in ("call_function", "call_method") or add.target not in _ADDITIONS:
        return f"no activation or addition follows, but {add.name}"
    if len(add.args) != 2 or add.kwargs:
        return "the addition has more arguments"
    first, second = add.args
    other = second if first is bn else first
    if not isinstance(other, Node) or first is second:
        return "what is added is no tensor of the graph's"
    if add.target in _IN_PLACE_ADDITIONS and first is not bn:
        return "it is added in place to a tensor that others may read"
    return other


def _told(spec: ActivationSpec) -> str:
    return f"{spec[0]} {spec[1]:g}" if isinstance(spec, tuple) else str(spec)


# ---------------------------------------------------------------- in Sequential


def _in_sequentials(module: torch.nn.Module, report: FusionReport) -> None:
    names = {m: name for name, m in module.named_modules()}
    held = holders(module)
    seen = set()
    for parent in called_sequentials(module):
        children = list(parent._modules.items())
        for (_, bn), (at, follower) in pairwise(children):
            spec = spec_of_layer(follower)
            if type(bn) not in LAYERS or bn.activation is not None or spec is None:
                continue
            if held[bn] == held[follower] == 1 and not has_hooks(bn):
                bn.activation = spec
                setattr(parent, at, Fused(follower))
                seen.add(bn)
                report.fused.append((names[bn], _told(spec)))
    for m, name in names.items():
        if isinstance(m, FusedForward) and m not in seen:
            reason = "the model was not traced, and no activation follows it in a torch.nn.Sequential called whole"
            report.left.append((name, reason))


# ---------------------------------------------------------------- the way back


def unfuse(module: torch.nn.Module) -> None:
    """Undoes `fuse`, in place. ValueError, before anything is changed, for an activation that was given by hand."""
    ours = {m for m in module.modules() if isinstance(m, FusedForward) and m.activation is not None}
    pairs = []
    for parent in module.modules():
        children = list(parent._modules.items())
        for (_, bn), (at, follower) in pairwise(children):
            if bn is not None and bn in ours and isinstance(follower, Fused):
                pairs.append((parent, at, bn, follower))
                ours.discard(bn)
    if ours:
        name = next(name for name, m in module.named_modules() if m in ours)
        raise ValueError(
            f"module: expected layers without an activation of their own, got {name or 'one'} with one, for which "
            "PyTorch's layer has no place; set its activation to None and apply it after the layer"
        )
    for parent, at, bn, follower in pairs:
        del bn.activation
        setattr(parent, at, follower.was[0])
    for made in module.modules():
        if isinstance(made, GraphModule):
            _split(made)


def _split(made: GraphModule) -> None:
    for node in list(made.graph.nodes):
        if isinstance(layer_of(made, node), FusedForward):
            split_node(made, node, node)
    made.recompile()


def split_node(made: GraphModule, node: Node, into: Node) -> None:
    """Takes residual and activation out of a layer's call: nodes of their own behind `into`."""
    residual = node.args[1] if len(node.args) > 1 else None
    spec = node.kwargs.get("activation")
    users = list(node.users)
    node.args, node.kwargs = node.args[:1], {}
    last = into
    with made.graph.inserting_after(node):
        if residual is not None:
            last = made.graph.call_function(operator.add, (last, residual))
    with made.graph.inserting_after(last if last is not into else node):
        if spec is not None:
            last = made.graph.call_function(*_call(spec, last))
    for user in users:
        user.replace_input_with(node, last)


def _call(spec: Any, z: Node) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(spec, tuple):
        return _F.leaky_relu, (z, spec[1])
    return {"relu": _F.relu, "relu6": _F.relu6}[spec], (z,)

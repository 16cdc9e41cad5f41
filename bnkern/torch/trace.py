"""A model as a graph (torch.fx), where the graph is sure to be the model; the reason where it is not.

torch.fx runs the forward once on stand-ins for tensors. What Python decides on the way is then fixed, and what stood
around the layers (hooks, optional arguments) is gone. Each such case is looked for here.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node, Proxy, Tracer

from bnkern.torch.modules import FusedForward

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class FusionReport:
    """What was fused or folded, and what stays.

    Attributes
    ----------
    fused : list of (layer, what)
        Names of BatchNorm layers, and what they took in (or what took them in).
    left : list of (layer, reason)
        Names of BatchNorm layers that stay as they are; "" is the model itself, where it could not be traced.
    """

    fused: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        taken = [f"{name}: {what}" for name, what in self.fused]
        stays = [f"{name or '(the model)'}: stays, {reason}" for name, reason in self.left]
        return "\n".join([*taken, *stays]) or "no BatchNorm layer"


def fusion_report(module: torch.nn.Module) -> FusionReport:
    """What `convert(module, fuse=True)` or `fold(module)` did, for the module that it returned.

    Raises
    ------
    ValueError
        If the module was not made by one of them.
    """
    report = getattr(module, "_bnkern_report", None)
    if report is None:
        raise ValueError("module: expected what convert(..., fuse=True) or fold(...) returned, got another module")
    return report


_AUGMENTED = (
    "iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow", "irshift", "isub", "itruediv",
    "ixor",
)  # fmt: skip


class _Standin(Proxy):
    """Knows `a += b` for what it is, a write into a; torch.fx's own would make it a = a + b."""


def _in_place(name: str) -> Callable[[Proxy, Any], Any]:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in _AUGMENTED:
    setattr(_Standin, f"__{_name}__", _in_place(_name))


class _Leaves(Tracer):
    def proxy(self, node: Node) -> Proxy:
        return _Standin(node, self)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FusedForward) or super().is_leaf_module(m, module_qualified_name)


def traced(module: torch.nn.Module, modes: tuple[bool, ...] = (True, False)) -> GraphModule | str:
    """The model as a graph on its own layers, right in each of the modes (training or not); or why there is none."""
    reason = _around(module)
    if reason:
        return reason
    flags = {m: m.training for m in module.modules()}
    graphs = []
    try:
        for mode in modes:
            module.train(mode)
            graphs.append(_Leaves().trace(module))
    except Exception as error:  # whatever a forward may raise when it meets a stand-in
        return f"torch.fx cannot trace it: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        for m, flag in flags.items():
            m.training = flag
    if len({str(g) for g in graphs}) > 1:
        return "its forward asks for self.training itself, outside layers"
    made = GraphModule(module, graphs[0], type(module).__name__)
    made.train(module.training)  # of itself; the layers have kept their own flags:
    for m, flag in flags.items():
        m.training = flag
    # All that the model holds, used or not, in the same order: the state_dict does not change.
    made._modules, made._parameters, made._buffers = (
        dict(getattr(module, kind)) for kind in ("_modules", "_parameters", "_buffers")
    )
    made._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    return made


def _around(module: torch.nn.Module) -> str:
    """What a graph would lose or change."""
    for p in inspect.signature(module.forward).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty:
            return f"its forward has optional arguments ({p.name}), on which a graph cannot decide"
    tracer = _Leaves()
    for name, m in module.named_modules():
        if (m is module or not tracer.is_leaf_module(m, name)) and has_hooks(m):
            return f"it has hooks ({name or 'on the model'}), which a graph would not call"
    return ""


def has_hooks(m: torch.nn.Module) -> bool:
    return any(getattr(m, hooks) for hooks in _HOOKS)


def layer_of(made: GraphModule, node: Any) -> torch.nn.Module | None:
    """The layer that a node calls, if it calls one."""
    return made.get_submodule(node.target) if isinstance(node, Node) and node.op == "call_module" else None


def writes(made: GraphModule, node: Node) -> bool:
    """Whether a node may write one of its arguments."""
    if node.op == "call_module":
        return bool(getattr(layer_of(made, node), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    in_place |= getattr(node.target, "__module__", "") == "_operator" and name in _AUGMENTED
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs or name in ("setitem", "__setitem__")

"""A model as a graph (torch.fx), where the graph is sure to be the model; the reason where it is not.

torch.fx runs the forward once on stand-ins for tensors. What Python decides on the way is then fixed, and what stood
around the layers (hooks, optional arguments) is gone. Each such case is looked for here, and in `watch` while it runs.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bnkern.torch.watch import AUGMENTED, Refused, Watching

_OVERRIDES = (  # of a class whose forward is traced: a graph has torch.nn.Module's own
    "train", "eval", "__call__", "state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict",
    "get_extra_state", "set_extra_state",
)  # fmt: skip
_STATE_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
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
    # In meta too, for a GraphModule's copy takes nothing else along.
    report = getattr(module, "_bnkern_report", None) or getattr(module, "meta", {}).get("bnkern_report")
    if report is None:
        raise ValueError("module: expected what convert(..., fuse=True) or fold(...) returned, got another module")
    return report


def keep_report(module: torch.nn.Module, report: FusionReport) -> None:
    object.__setattr__(module, "_bnkern_report", report)
    if isinstance(module, GraphModule):
        module.meta["bnkern_report"] = report


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
            graphs += [Watching().watched(module), Watching().watched(module, elsewhere=True)]
    except Refused as refused:
        return str(refused)
    except Exception as error:  # whatever a forward may raise when it meets a stand-in
        return f"torch.fx cannot trace it: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        for m, flag in flags.items():
            m.training = flag
    if len({str(g) for g in graphs}) > 1:
        asked = "self.training itself" if len({str(g) for g in graphs[::2]}) > 1 else "grad mode or autocast"
        return f"its forward asks for {asked}, outside layers"
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
    tracer = Watching()
    for name, m in module.named_modules():
        if m is not module and tracer.is_leaf_module(m, name):
            continue
        where = name or "on the model"
        if has_hooks(m) or any(getattr(m, hooks, None) for hooks in _STATE_HOOKS):
            return f"it has hooks ({where}), which a graph would not call"
        for method in () if isinstance(m, GraphModule) else _OVERRIDES:
            if getattr(type(m), method) is not getattr(torch.nn.Module, method) or method in vars(m):
                return f"it has a {method} of its own ({where}), which a graph would not have"
    return ""


def has_hooks(m: torch.nn.Module) -> bool:
    """Whether something runs around the layer's forward, or in its place."""
    return any(getattr(m, hooks) for hooks in _HOOKS) or "forward" in vars(m)


def arguments_by_position(node: Node) -> bool:
    """Brings a BatchNorm's call into the form (input[, residual], activation=...); False where it is no such call."""
    names, given = ("input", "residual", "activation"), dict(node.kwargs)
    if len(node.args) > 3 or set(given) - set(names):
        return False
    given.update(zip(names, node.args, strict=False))
    if not isinstance(given.get("input"), Node):
        return False
    residual, activation = given.get("residual"), given.get("activation")
    node.args = (given["input"],) if residual is None else (given["input"], residual)
    node.kwargs = {} if activation is None else {"activation": activation}
    return True


def reads_of(made: GraphModule) -> set[int]:
    """The parameters and buffers (their ids) that the graph reads itself, besides the layers' own calls."""
    return {id(operator.attrgetter(str(node.target))(made)) for node in made.graph.nodes if node.op == "get_attr"}


def tensors_of(*layers: torch.nn.Module) -> set[int]:
    return {id(t) for layer in layers for t in (*layer.parameters(), *layer.buffers())}


def shared_tensors(module: torch.nn.Module) -> set[int]:
    """The parameters and buffers (their ids) that more than one module of a model holds."""
    count: dict[int, int] = {}
    for m in module.modules():
        for t in (*m._parameters.values(), *m._buffers.values()):
            count[id(t)] = count.get(id(t), 0) + (t is not None)
    return {t for t, times in count.items() if times > 1}


def holders(module: torch.nn.Module) -> dict[torch.nn.Module, int]:
    """How many places hold each module of a model; named_children() would tell each layer once only."""
    count: dict[torch.nn.Module, int] = {}
    for parent in module.modules():
        for child in parent._modules.values():
            if child is not None:
                count[child] = count.get(child, 0) + 1
    return count


def called_sequentials(module: torch.nn.Module) -> list[torch.nn.Sequential]:
    """The torch.nn.Sequential whose own forward is called for sure: the model itself, and those in it directly.

    Whoever else holds one may loop over it, or call a part of it.
    """
    held = holders(module)
    sure: list[torch.nn.Sequential] = []
    waiting = [module]
    while waiting:
        m = waiting.pop()
        if type(m) is torch.nn.Sequential and "forward" not in vars(m) and m not in sure:
            sure.append(m)
            waiting.extend(child for child in reversed(m._modules.values()) if child is not None and held[child] == 1)
    return sure


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
    home = str(getattr(node.target, "__module__", None) or "torch").split(".")[0]
    if not isinstance(node.target, str) and home not in ("torch", "_operator", "builtins", "math"):
        return True  # a function that torch.fx.wrap keeps closed
    if node.op == "call_function" and True in [a for a in node.args if isinstance(a, bool)]:
        return True  # F.relu(x, True)
    in_place = name.endswith("_") and not name.endswith("__")
    in_place |= getattr(node.target, "__module__", "") == "_operator" and name in AUGMENTED
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs or name in ("setitem", "__setitem__")

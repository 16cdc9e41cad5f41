"""Tracing under watch: torch.fx records tensor operations alone, and whatever else a forward does refuses the graph.

Changes of grad mode or autocast, random numbers, tensors computed from no argument, attributes set on the way, and
questions about a stand-in's type: each would be lost, or fixed as it was in the one run on stand-ins.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.proxy import Attribute
from torch.overrides import TorchFunctionMode

from bnkern.torch.modules import FusedForward

AUGMENTED = (
    "iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow", "irshift", "isub", "itruediv",
    "ixor",
)  # fmt: skip
_OWN_SLOTS = ("tracer", "node", "root", "attr", "_node")
_MAY_ASK = (  # in whose code torch.fx itself asks; a prefix each
    "torch.fx", "torch._", "torch.overrides", "torch.nn.", "torch.utils.", __name__, "dataclasses", "inspect",
    "functools",
)  # fmt: skip


class Refused(Exception):
    """The forward does what a graph would not keep."""


class _Standin(Proxy):
    """Stands for a tensor; knows `a += b` as a write into a, and refuses what only a tensor could answer."""

    @property  # what isinstance asks when the type itself does not answer
    def __class__(self) -> type:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(_MAY_ASK):
            self.tracer.refuse("its forward asks for the type of a value (isinstance)")
        return type(self)

    @__class__.setter
    def __class__(self, other: type) -> None:
        self.tracer.refuse("its forward gives a value another class")

    def __getattr__(self, name: str) -> Any:
        if not hasattr(torch.Tensor, name):
            if name.startswith("_"):
                raise AttributeError(name)
            self.tracer.refuse(f"its forward asks a value for .{name}, which tensors do not have")
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN_SLOTS:
            self.tracer.refuse(f"its forward sets .{name} of a value")
        object.__setattr__(self, name, value)


class _Attribute(Attribute, _Standin):
    """A stand-in's attribute or method, watched as the stand-in is."""


def _in_place(name: str) -> Callable[[Proxy, Any], Any]:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in AUGMENTED:
    setattr(_Standin, f"__{_name}__", _in_place(_name))


class Watching(Tracer):
    """A tracer that remembers the first reason to give up, should the forward swallow the exception."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.around: Any = None
        self.own: set[int] = set()

    def refuse(self, reason: str) -> None:
        self.reason = self.reason or reason
        raise Refused(reason)

    def proxy(self, node: Node) -> Proxy:
        return _Standin(node, self)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FusedForward) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        if self.around is not None and self.around != _around_operations():
            self.refuse("its forward changes grad mode, autocast or what is saved for the backward (a checkpoint)")
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and id(a) not in self.own:
            self.refuse("its forward uses a tensor that is no parameter or buffer of the model")
        return super().create_arg(a)

    def to_bool(self, obj: Proxy) -> bool:
        self.refuse("its forward decides on a value (if, while, assert)")
        return False

    def watched(self, module: torch.nn.Module, elsewhere: bool = False) -> Graph:
        """The graph; raises what the forward raises, or Refused. `elsewhere`: without grad mode, and in autocast."""
        self.own = {id(t) for t in (*module.parameters(), *module.buffers())}
        state, numbers = State(module), _random_states()
        try:
            with (
                torch.inference_mode(False), torch.set_grad_enabled(not elsewhere),
                torch.autocast("cpu", torch.bfloat16, enabled=elsewhere), _no_autocast(self),
            ):  # fmt: skip
                self.around = _around_operations()
                with _OnStandins(self):
                    graph = self.trace(module)
                self.around = None
            if self.reason:
                raise Refused(self.reason)
            if state.drew():
                raise Refused("its forward draws random numbers")
            if state.changed():
                raise Refused("its forward sets attributes of its modules, or of what they hold")
            if not _same(numbers, _random_states()):
                raise Refused("its forward draws random numbers")
        finally:
            state.restore()
            _set_random_states(numbers)
        return graph


def _around_operations() -> tuple[Any, ...]:
    """What decides how an operation runs and is no argument of it."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cpu"), torch.get_autocast_dtype("cuda"),
        torch._C._autograd._top_saved_tensors_default_hooks(True) is None,
    )  # fmt: skip


@contextlib.contextmanager
def _no_autocast(tracer: Watching) -> Iterator[None]:
    """Refuses autocast even where its device is missing, on which the state would not tell."""
    enter = torch.autocast.__enter__

    def refused(self: Any) -> None:
        tracer.refuse("its forward changes autocast")

    torch.autocast.__enter__ = refused
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter


class _OnStandins(TorchFunctionMode):
    """Sees each operation before it runs; one without a stand-in would leave a constant, or write a real tensor."""

    def __init__(self, tracer: Watching) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if "grad_enabled" in name:
            self.tracer.refuse("its forward changes grad mode (torch.no_grad or its like)")
        if name != "__hash__" and not _has_standin((args, kwargs)):
            self.tracer.refuse(f"its forward calls {name} on no value that depends on its arguments")
        return func(*args, **(kwargs or {}))


def _has_standin(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_standin(v) for v in value)
    if isinstance(value, dict):
        return any(_has_standin(v) for v in value.values())
    return isinstance(value, Proxy)


# ---------------------------------------------------------------- random numbers


def _random_states() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    return torch.get_rng_state(), random.getstate(), None if numpy is None else numpy.random.get_state(legacy=False)


def _set_random_states(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    if states[2] is not None:
        sys.modules["numpy"].random.set_state(states[2])


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1] and repr(one[2]) == repr(other[2])


# ---------------------------------------------------------------- attributes

_NOT_INTO = (
    torch.nn.Module, torch.Tensor, type, types.FunctionType, types.MethodType, types.ModuleType,
)  # fmt: skip


class State:
    """The attributes of a model's modules, and what the dicts, lists, sets and plain objects among them hold."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parts: list[tuple[Any, Any]] = []
        self.generators: list[tuple[Any, Any]] = []
        seen: set[int] = set()
        waiting: list[Any] = [m.__dict__ for m in module.modules()]
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                self.parts.append((value, dict(value)))
                waiting.extend(value.values())
            elif isinstance(value, (list, collections.deque)):
                self.parts.append((value, list(value)))
                waiting.extend(value)
            elif isinstance(value, set):
                self.parts.append((value, set(value)))
            elif isinstance(value, tuple):
                waiting.extend(value)
            elif isinstance(value, random.Random) or hasattr(value, "bit_generator"):  # Python's, NumPy's
                self.generators.append((value, _drawn(value)))
            elif not isinstance(value, _NOT_INTO) and type(value).__module__.split(".")[0] != "torch":
                waiting.extend([value.__dict__] if isinstance(getattr(value, "__dict__", None), dict) else [])

    def changed(self) -> bool:
        return any(not _identical(now, was) for now, was in self.parts)

    def drew(self) -> bool:
        return any(repr(_drawn(generator)) != repr(was) for generator, was in self.generators)

    def restore(self) -> None:
        for generator, was in self.generators:
            if isinstance(generator, random.Random):
                generator.setstate(was)
            else:
                generator.bit_generator.state = was
        for now, was in self.parts:
            if not _identical(now, was):
                now.clear()
                (now.extend if isinstance(was, list) else now.update)(was)


def _drawn(generator: Any) -> Any:
    """How far a generator of random numbers is."""
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _identical(now: Any, was: Any) -> bool:
    if isinstance(was, dict):
        return list(now) == list(was) and all(now[k] is v for k, v in was.items())
    if isinstance(was, list):
        return len(now) == len(was) and all(a is b for a, b in zip(now, was, strict=True))
    return bool(now == was)

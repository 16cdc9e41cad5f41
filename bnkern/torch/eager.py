"""Plain eager calls: the same values and gradients as by the operators, without PyTorch's dispatcher in between.

A custom operator costs 80 microseconds a call in a loop, and more in a model, where its code has left the caches
between two layers. Who looks at operators (compile, export, modes, transforms, tracing, subclasses of Tensor) is asked
first; where nobody does, nothing can tell the difference but a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bnkern.torch import functorch

_PLAIN = (Tensor, torch.nn.Parameter)


def unwatched(arguments: tuple[Any, ...]) -> bool:
    """Whether a call on these arguments is nobody's business: plain tensors on CPU, and nobody looks at operators."""
    if torch.compiler.is_compiling():
        return False
    for a in arguments:
        if isinstance(a, Tensor) and not (type(a) in _PLAIN and a.is_cpu):
            return False
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._is_torch_function_mode_enabled()
        or functorch.transformed()
        or torch._C._is_tracing()
    )


def function(name: str, values: Callable[..., Any], backward: Any, setup_context: Any) -> Callable[..., Any]:
    """The values, differentiable, by an autograd.Function without setup_context: with one, PyTorch inspects signatures
    in every call.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = values(*inputs)
        setup_context(ctx, inputs, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    made: Any = type(f"Eager_{name}", (torch.autograd.Function,), members)
    return made.apply


def recorded(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The call, seen by torch.profiler under the operator's name."""
    if not torch.autograd._profiler_enabled():
        return call(*arguments)
    with torch.profiler.record_function(f"bnkern::{name}"):
        return call(*arguments)

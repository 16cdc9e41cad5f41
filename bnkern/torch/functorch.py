"""Operators under torch.func: grad, vjp, jacrev and their mixtures with vmap.

torch.func differentiates an autograd.Function that has setup_context, which the one that torch.library makes of an
operator has not (PyTorch 2.13). `add_twin` makes such a one, of the same parts; outside torch.func the operators are
called as they are. A rule for vmap runs inside the transforms around it, and so it asks `called` again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether a transform of torch.func is at work, or forward mode, which the twins refuse and an operator forgets."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or getattr(forward_ad, "_current_level", 0) >= 0


_TWINS: dict[str, Callable[..., Any]] = {}  # by the operator's name; autograd.py fills it


def called(op: Any, *arguments: Any) -> Any:
    """The operator on these arguments, or its twin where a transform is at work."""
    twin = _TWINS.get(op._name) if transformed() else None
    return (twin or op)(*arguments)


def add_twin(op: Any, backward: Any, setup_context: Any, rule: Any) -> None:
    """Make the twin of an operator, that torch.func differentiates."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:  # by these names, whatever those of the other are
        setup_context(ctx, inputs, output)

    members = {
        "forward": staticmethod(lambda *inputs: op(*inputs)),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
        "jvp": staticmethod(_no_forward_mode),
        "vmap": staticmethod(rule),
    }
    made: Any = type(f"Function_{op._name}", (torch.autograd.Function,), members)
    _TWINS[op._name] = made.apply


def _no_forward_mode(ctx: Any, *tangents: Any) -> Any:
    raise NotImplementedError(
        "bnkern.torch: expected reverse mode (grad, vjp, jacrev), got forward mode (jvp, jacfwd, hessian, linearize), "
        "for which the kernels have no rule; jacrev(jacrev(f)) is a Hessian, torch.nn.functional.batch_norm has both"
    )

"""Operators under torch.func: grad, vjp, jacrev and their mixtures with vmap.

torch.func differentiates an autograd.Function that has setup_context, which the one that torch.library makes of an
operator has not (PyTorch 2.13). `function` makes such a one, of the same parts; outside torch.func the operators are
called as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def function(op: Any, backward: Any, setup_context: Any, rule: Any) -> Callable[..., Any]:
    """A twin of the operator that torch.func differentiates."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:  # by these names, whatever those of the other are
        setup_context(ctx, inputs, output)

    members = {
        "forward": staticmethod(lambda *inputs: op(*inputs)),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
        "vmap": staticmethod(rule),
    }
    made: Any = type(f"Function_{op._name}", (torch.autograd.Function,), members)
    return made.apply

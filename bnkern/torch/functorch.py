"""The operators under torch.func: grad, vjp, jacrev and their mixtures with vmap.

torch.func differentiates an autograd.Function that has setup_context, which the one that torch.library makes of an
operator has not (PyTorch 2.13). Here is one for each operator, of the same functions; outside torch.func the operators
are called as they are.
"""

from __future__ import annotations

from typing import Any

import torch

from bnkern.torch import autograd, ops, vmap


def transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _function(op: Any, backward: Any, setup_context: Any, rule: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        setup_context(ctx, inputs, output)

    members = {
        "forward": staticmethod(lambda *inputs: op(*inputs)),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
        "vmap": staticmethod(rule),
    }
    return type(f"Function_{op._name}", (torch.autograd.Function,), members).apply  # type: ignore[attr-defined]


batch_norm_train = _function(ops.batch_norm_train, autograd.train_backward, autograd.setup_train, vmap.train)
batch_norm_inference = _function(
    ops.batch_norm_inference, autograd.inference_backward, autograd.setup_inference, vmap.inference
)
batch_norm_backward = _function(
    ops.batch_norm_backward, autograd.backward_backward, autograd.setup_backward, vmap.backward
)

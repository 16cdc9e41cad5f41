"""PyTorch tensors on the kernels for their device, in their own memory: any strides, results in x's memory format.

NumPy has no bfloat16: such a tensor is lent as the uint16 of its bits, which the kernels take for it. The checks
(`bnkern._plain`) have seen to it that no tensor here requires grad, unless gradients are off.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from bnkern._args import dtype_name
from bnkern._merge import cast
from bnkern._types import Array
from bnkern.backends import cpu, torch_cuda
from bnkern.backends.lent import Loan, functions


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return f"not a PyTorch tensor but {type(x).__name__}"
    if x.device.type == "cuda":
        return torch_cuda.accepts(x)
    return None if x.device.type in _LOANS else f"no kernels for device {x.device.type!r}"


_BFLOAT16 = np.dtype(np.uint16)  # its bits, which is what the kernels take for it


def _loan(arguments: tuple[Any, ...]) -> Loan:
    return _LOANS[arguments[0].device.type]()


@cache
def _on_cpu() -> Loan:
    return Loan(cpu, sys.modules["torch"].Tensor, _lend, _give, _wrote)


@cache
def _on_cuda() -> Loan:
    return Loan(torch_cuda, sys.modules["torch"].Tensor, torch_cuda.lend, torch_cuda.give, _wrote)


# How tensors get to kernels, by device.
_LOANS = {"cpu": _on_cpu, "cuda": _on_cuda}

stats, train, inference, reduce, input_grad, backward = functions(_loan)


def narrow(v: Array, dtype: Any) -> Array:
    """By the kernels' conversion: PyTorch's goes from float64 to 16 bits through float32, and rounds twice."""
    name = dtype_name(dtype)
    to = _BFLOAT16 if name == "bfloat16" else np.dtype(name)
    if v.device.type == "cuda":
        return torch_cuda.give(torch_cuda.narrow(torch_cuda.lend(v), to), v)
    return _give(cast(_lend(v), to), v)


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """In place, and known to autograd as a write: a graph that saved the old values will notice."""
    loan = _loan((running,))
    loan.kernels.update_running(loan.lend(running), loan.lend(value), momentum, scale)
    loan.wrote(running)


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """What the kernels say of the lent memory: for bnkern.explain."""
    loan: Any = _loan((x,))
    return loan.kernels.explain(loan.lend(x), axis, op)


def _lend(t: Any) -> np.ndarray:
    if t.requires_grad:
        t = t.detach()
    torch = sys.modules["torch"]
    return t.view(torch.int16).numpy().view(_BFLOAT16) if t.dtype is torch.bfloat16 else t.numpy()


def _give(result: np.ndarray, like: Any) -> Any:
    torch = sys.modules["torch"]
    if result.dtype == _BFLOAT16:
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(result)


def _wrote(t: Any) -> None:
    if not t.is_inference():  # an inference tensor has no version to count
        sys.modules["torch"].autograd.graph.increment_version(t)

"""Whether the values of an array are what they seem: plain, present, and of no graph that would go unrecorded.

One check for each library whose arrays of one type can differ in this. bnkern's functions compute values; a
tensor whose gradient someone waits for must not pass through them in silence.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np


def _torch(name: str, t: Any) -> None:
    torch = sys.modules["torch"]
    if type(t) is not torch.Tensor and type(t) is not torch.nn.Parameter:
        _refuse(name, "a torch.Tensor or Parameter", f"its subclass {type(t).__name__}", "give the plain tensor in it")
    if t.layout is not torch.strided:
        _refuse(name, "a dense tensor", f"layout {t.layout}", f"give {name}.to_dense()")
    if t.is_nested or t.is_quantized:
        what = "a nested" if t.is_nested else "a quantised"
        _refuse(name, "a plain tensor", f"{what} one", "give a padded or dequantised one")
    if t.is_neg() or t.is_conj():
        _refuse(name, "a tensor as it lies in memory", "a view that negates or conjugates it", "give resolve_neg()")
    if t.device.type in ("cpu", "cuda"):
        try:
            t.data_ptr()
        except RuntimeError:
            _refuse(name, "a tensor with memory", "one wrapped by a transform of torch.func", "call bnkern outside it")
    if t.requires_grad and torch.is_grad_enabled():
        remedy = f"call it under torch.no_grad(), or give {name}.detach()"
        if find_spec("bnkern.torch"):
            remedy += ", or use bnkern.torch, which records"
        _refuse(name, "a tensor that does not require grad (no graph is recorded here)", "one that does", remedy)
    forward_ad = torch.autograd.forward_ad
    if getattr(forward_ad, "_current_level", 0) >= 0 and forward_ad.unpack_dual(t).tangent is not None:
        _refuse(name, "a tensor without a tangent (this function propagates none)", "a dual tensor", "give its primal")


def _jax(name: str, a: Any) -> None:
    deleted = getattr(a, "is_deleted", None)  # a tracer has no memory to lose
    if not isinstance(a, sys.modules["jax"].core.Tracer) and deleted is not None and deleted():
        raise ValueError(f"{name}: expected an array with its memory, got one that was deleted or donated")


def _dask(name: str, a: Any) -> None:
    if not isinstance(a._meta, np.ndarray) or isinstance(a._meta, (np.ma.MaskedArray, np.matrix)):
        _refuse(name, "a Dask array of NumPy chunks", f"one of {type(a._meta).__name__}", "convert it with map_blocks")


def _refuse(name: str, expected: str, got: str, remedy: str) -> None:
    raise TypeError(f"{name}: expected {expected}, got {got}; {remedy}")


CHECKS = {"torch": _torch, "jax.numpy": _jax, "dask.array": _dask}

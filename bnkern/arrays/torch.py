"""PyTorch tensors: which can be computed with, and how the kernels for their device reach their memory.

NumPy has no bfloat16: such a tensor is exported as the uint16 of its bits, which the kernels take for it. bnkern's
functions compute values; a tensor whose gradient someone waits for must not pass through them in silence.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from bnkern._dtypes import Array, device_of, namespace
from bnkern.arrays import torch_cuda
from bnkern.arrays._base import Adapter, Described, Kind, Library, refusal

_COMPILED = "call bnkern in a function under @torch.compiler.disable, or in a torch.library.custom_op"
_BFLOAT16 = np.dtype(np.uint16)  # its bits, which is what the kernels take for it


class Torch(Library):
    name = "torch"
    from_numpy = "torch.from_numpy"
    refuses = True

    def place(self, a: Array) -> str:
        return a.device.type

    def refuse(self, name: str, t: Array) -> None:
        torch = sys.modules["torch"]
        if name == "x" and torch.compiler.is_compiling():  # Dynamo, tracing this line: it breaks its graph at the error
            raise refusal(name, "a tensor with values", "one that torch.compile traces", _COMPILED)
        if type(t) is not torch.Tensor and type(t) is not torch.nn.Parameter:
            _refuse_subclass(name, t)
        if t.layout is not torch.strided:
            raise refusal(name, "a dense tensor", f"layout {t.layout}", f"give {name}.to_dense()")
        if t.is_nested or t.is_quantized:
            what = "a nested" if t.is_nested else "a quantised"
            raise refusal(name, "a plain tensor", f"{what} one", "give a padded or dequantised one")
        if t.is_neg() or t.is_conj():
            got = "a view that negates or conjugates it"
            raise refusal(name, "a tensor as it lies in memory", got, "give resolve_neg()")
        if t.device.type in ("cpu", "cuda"):
            try:
                t.data_ptr()
            except RuntimeError:
                got = "one wrapped by a transform of torch.func"
                raise refusal(name, "a tensor with memory", got, "call bnkern outside it") from None
        if t.requires_grad and torch.is_grad_enabled():
            remedy = f"call it under torch.no_grad(), or give {name}.detach()"
            if find_spec("bnkern.torch"):
                remedy += ", or use bnkern.torch, which records"
            expected = "a tensor that does not require grad (no graph is recorded here)"
            raise refusal(name, expected, "one that does", remedy)
        forward_ad = torch.autograd.forward_ad
        if getattr(forward_ad, "_current_level", 0) >= 0 and forward_ad.unpack_dual(t).tangent is not None:
            expected = "a tensor without a tangent (this function propagates none)"
            raise refusal(name, expected, "a dual tensor", "give its primal")

    def devices(self, a: Array, ref: Array) -> tuple[Any, Any]:
        return a.device, ref.device

    def writable(self, name: str, a: Array, remedy: str) -> bool:
        if a.is_inference() and not sys.modules["torch"].is_inference_mode_enabled():
            expected, got = "a tensor that can be written here", "an inference tensor outside torch.inference_mode()"
            raise ValueError(f"{name}: expected {expected}, got {got}; {remedy}")
        return a.is_contiguous()

    def memory(self, a: Array) -> np.ndarray | None:
        if 0 in a.shape:
            return None
        strides = tuple(s * a.element_size() for s in a.stride())
        return np.asarray(Described(a.data_ptr(), tuple(a.shape), strides, f"|V{a.element_size()}"))

    def apart(self, a: Array, b: Array) -> bool:
        if a.device.type not in ("cpu", "cuda"):  # elsewhere (MPS) a pointer is a handle, and says which storage it is
            return a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
        (start, end), (other_start, other_end) = span(a), span(b)
        return end <= other_start or other_end <= start

    def widest(self, a: Array) -> Any:
        if getattr(device_of(a), "type", None) == "mps":  # PyTorch's own answer is the same for all devices
            return sys.modules["torch"].float32
        return super().widest(a)

    def ordered_like(self, a: Array, x: Array) -> Array:
        if a.stride() == x.stride():
            return a
        fresh = namespace(x).empty_like(x)
        fresh[...] = a
        return fresh


def _refuse_subclass(name: str, t: Array) -> None:
    kind = type(t).__name__
    if kind in ("FakeTensor", "FunctionalTensor"):
        raise refusal(name, "a tensor with values", f"its subclass {kind}, by which torch.compile traces", _COMPILED)
    raise refusal(name, "a torch.Tensor or Parameter", f"its subclass {kind}", "give the plain tensor in it")


def span(t: Array) -> tuple[int, int]:
    """The addresses that a tensor, whose strides are never negative, lies between."""
    start = t.data_ptr()
    if t.is_contiguous():
        return start, start + t.nbytes
    reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return start, start + (reach + 1) * t.element_size()


def export(t: Array) -> np.ndarray:
    if t.requires_grad:
        t = t.detach()
    torch = sys.modules["torch"]
    return t.view(torch.int16).numpy().view(_BFLOAT16) if t.dtype is torch.bfloat16 else t.numpy()


def wrap(result: np.ndarray, like: Array) -> Array:
    torch = sys.modules["torch"]
    if result.dtype == _BFLOAT16:
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(result)


def mark_written(a: Array) -> None:
    """Autograd counts writes: a graph that saved the old values will notice."""
    if not a.is_inference():  # an inference tensor has no version to count
        sys.modules["torch"].autograd.graph.increment_version(a)


TORCH = Torch()
Torch.kinds = {
    "cpu": Kind("PyTorch, CPU", ("cpu",), Adapter(export, wrap, mark_written)),
    "cuda": Kind(
        "PyTorch, CUDA (without CuPy: array API)", ("cuda", "array_api"),
        Adapter(torch_cuda.export, torch_cuda.wrap, mark_written, around=torch_cuda.torchs_stream),
    ),
    "": Kind("PyTorch, other devices", ("array_api",), why="there are kernels for CPU and CUDA"),
    "meta": Kind("PyTorch, meta", (), refused="a meta tensor has no values"),
}  # fmt: skip

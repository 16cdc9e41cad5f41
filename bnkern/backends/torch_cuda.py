"""CUDA tensors of PyTorch on the GPU kernels: lent to CuPy without a copy, run on PyTorch's current stream.

For the backend of PyTorch tensors (see `bnkern.backends`): `lend` and `give` cross over, the functions of a backend
take what was lent. bfloat16 crosses as the uint16 of its bits. Memory that a call makes is CuPy's, and goes back to
CuPy's pool when the last tensor on it is gone; the pool hands it out again on the same stream, so in order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib import import_module
from typing import Any

import numpy as np

from bnkern._types import Array
from bnkern.backends import cuda
from bnkern.backends._cuda_launch import cupy


def accepts(x: Array) -> str | None:
    """None: x is a CUDA tensor, and CuPy is there. Otherwise the reason why not."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor) or x.device.type != "cuda":
        return "not a CUDA tensor of PyTorch"
    try:
        import_module("cupy")
    except ImportError:
        return "CuPy is not installed, which compiles the GPU kernels (pip install 'bnkern[cuda]')"
    return None


def lend(t: Any) -> Any:
    """A CuPy array on a tensor's memory. It does not wait for the tensor: both sides are on PyTorch's stream."""
    torch = sys.modules["torch"]
    if t.dtype is torch.bfloat16:
        return _view(t, np.dtype(np.uint16))
    return _view(t, np.dtype(str(t.dtype).rpartition(".")[2]))


def _view(t: Any, dtype: np.dtype[Any]) -> Any:
    """By address, shape and strides, as `__cuda_array_interface__` tells them; that has no word for bfloat16."""
    size = t.untyped_storage().nbytes() - t.storage_offset() * t.element_size()
    memory = cupy().cuda.UnownedMemory(t.data_ptr(), size, t, t.device.index)
    strides = tuple(s * t.element_size() for s in t.stride())
    return cupy().ndarray(tuple(t.shape), dtype, cupy().cuda.MemoryPointer(memory, 0), strides)


def give(result: Any, like: Any) -> Any:
    """A tensor on the memory of a CuPy array: by DLPack, on the stream that made it, so that no stream waits."""
    torch = sys.modules["torch"]
    with _torchs_stream(result):
        if result.dtype == np.uint16:
            return torch.from_dlpack(result.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(result)


@contextmanager
def _torchs_stream(a: Any) -> Iterator[None]:
    """PyTorch's current stream on a's device as CuPy's current one."""
    device = a.data.device_id
    stream = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    with cupy().cuda.Device(device), _external(stream):
        yield


def _on_torchs_stream(function: Callable[..., Any], of: int) -> Callable[..., Any]:
    """`function` on the stream of its argument number `of`."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with _torchs_stream(arguments[of]):
            return function(*arguments, **options)

    return call


@cache
def _external(pointer: int) -> Any:
    """PyTorch's streams live as long as the process, so what stands for them may too."""
    return cupy().cuda.Stream.from_external(_Stream(pointer))


class _Stream:
    """The CUDA stream protocol, which not every PyTorch in use speaks."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


stats = _on_torchs_stream(cuda.stats, 1)
train = _on_torchs_stream(cuda.train, 1)
inference = _on_torchs_stream(cuda.inference, 1)
reduce = _on_torchs_stream(cuda.reduce, 1)
input_grad = _on_torchs_stream(cuda.input_grad, 1)
backward = _on_torchs_stream(cuda.backward, 1)
narrow = _on_torchs_stream(cuda.narrow, 0)
update_running = _on_torchs_stream(cuda.update_running, 0)
explain = cuda.explain

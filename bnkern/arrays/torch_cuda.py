"""CUDA tensors of PyTorch on the GPU kernels: exported to CuPy without a copy, run on PyTorch's current stream.

bfloat16 crosses as the uint16 of its bits. Memory that a call makes is CuPy's, and goes back to CuPy's pool when the
last tensor on it is gone; the pool hands it out again on the same stream, so in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from bnkern._dtypes import Array


def export(t: Array) -> Any:
    """A CuPy array on a tensor's memory. It does not wait for the tensor: both sides are on PyTorch's stream."""
    torch = sys.modules["torch"]
    if t.dtype is torch.bfloat16:
        return _view(t, np.dtype(np.uint16))
    return _view(t, np.dtype(str(t.dtype).rpartition(".")[2]))


def _view(t: Array, dtype: np.dtype[Any]) -> Any:
    """By address, shape and strides, as `__cuda_array_interface__` tells them; that has no word for bfloat16."""
    size = t.untyped_storage().nbytes() - t.storage_offset() * t.element_size()
    memory = _cupy().cuda.UnownedMemory(t.data_ptr(), size, t, t.device.index)
    strides = tuple(s * t.element_size() for s in t.stride())
    return _cupy().ndarray(tuple(t.shape), dtype, _cupy().cuda.MemoryPointer(memory, 0), strides)


def wrap(result: Any, like: Array) -> Array:
    """A tensor on the memory of a CuPy array: by DLPack, on the stream that made it, so that no stream waits."""
    torch = sys.modules["torch"]
    with _stream_of(result.data.device_id):
        if result.dtype == np.uint16:
            return torch.from_dlpack(result.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(result)


def torchs_stream(x: Array) -> Any:
    """PyTorch's current stream on x's device as CuPy's current one, for a block."""
    return _stream_of(x.device.index)


@contextmanager
def _stream_of(device: int) -> Iterator[None]:
    stream = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    with _cupy().cuda.Device(device), _external(stream):
        yield


@cache
def _external(pointer: int) -> Any:
    """PyTorch's streams live as long as the process, so what stands for them may too."""
    return _cupy().cuda.Stream.from_external(_Stream(pointer))


class _Stream:
    """The CUDA stream protocol, which not every PyTorch in use speaks."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def _cupy() -> Any:
    """CuPy: the dispatch imported it when it chose the engine."""
    return sys.modules["cupy"]

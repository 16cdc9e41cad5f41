"""The kinds of array the suite runs on: how each is made of a NumPy array, read back, and called.

`Backend` lists them. What is missing here is skipped by name; what a kind can do is read from `bnkern.arrays.kinds()`,
the declaration that the dispatch works by.
"""

import sys
from contextlib import nullcontext
from enum import Enum
from importlib.util import find_spec

import numpy as np
import pytest

from bnkern.arrays import kinds


class Numpy:
    """A kind of array; the base of the others."""

    package = "numpy"
    row = "numpy", ""  # of kinds()
    same_bits = True  # as plain NumPy arrays give, in what the kernels compute

    @property
    def kind(self):
        found = kinds()
        return found.get(self.row) or found.get((self.row[0], "")) or found["", ""]

    @property
    def writable(self):
        return self.kind.writable

    @property
    def dtypes(self):
        return self.kind.dtypes

    @property
    def installed(self):
        return find_spec(self.package) is not None

    def missing(self):
        """Why this kind cannot be tried here though its library is installed, or None."""

    def setting(self):
        """What must hold around everything done with these arrays."""
        return nullcontext()

    def make(self, a):
        return a.copy(order="K")

    def back(self, a):
        return a

    def run(self, function, arrays):
        return function(arrays)

    def like(self, a, x):
        """Checks that `a`, a result like x, is of x's device and memory order."""
        assert a.strides == x.strides


class ReadOnly(Numpy):
    writable = False

    def make(self, a):
        a = a.copy()
        a.flags.writeable = False
        return a


class Torch(Numpy):
    package = "torch"
    row = "torch", "cpu"
    device = "cpu"

    def make(self, a):
        import torch

        if a.dtype.name == "bfloat16":
            return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16).to(self.device)
        return torch.from_numpy(a.copy()).to(self.device)

    def back(self, a):
        import torch

        a = a.cpu()
        if a.dtype is torch.bfloat16:
            import ml_dtypes

            return a.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return a.numpy()

    def like(self, a, x):
        assert a.stride() == x.stride()
        assert a.device == x.device


class TorchChannelsLast(Torch):
    def make(self, a):
        import torch

        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return super().make(a).contiguous(memory_format=formats.get(a.ndim, torch.contiguous_format))


class TorchStrided(Torch):
    """Every second element of a larger tensor."""

    def make(self, a):
        t = super().make(a)
        larger = t.new_full([2 * n for n in t.shape], 7)
        view = larger[tuple(slice(None, None, 2) for _ in t.shape)]
        view[...] = t
        return view

    def like(self, a, x):
        assert a.is_contiguous()


class TorchCuda(Torch):
    row = "torch", "cuda"
    device = "cuda"
    same_bits = False

    def missing(self):
        import torch

        return None if torch.cuda.is_available() else "torch finds no CUDA device"


class Jax(Numpy):
    package = "jax"
    row = "jax.numpy", "cpu"

    def setting(self):
        import jax

        return jax.enable_x64(True)

    def make(self, a):
        import jax.numpy

        return jax.numpy.asarray(a)

    def back(self, a):
        return np.asarray(a)

    def like(self, a, x):
        assert a.devices() == x.devices()


class Jax32(Jax):
    """As JAX is by default: float64 does not exist."""

    same_bits = False
    dtypes = tuple(name for name in Jax().dtypes if name != "float64")

    def setting(self):
        import jax

        return jax.enable_x64(False)


class JaxJit(Jax):
    row = "jax.numpy", "traced"

    def run(self, function, arrays):
        import jax

        return jax.jit(function)(arrays)


class Dask(Numpy):
    package = "dask.array"
    row = "dask.array", ""
    same_bits = False
    chunks = (2, -1, 3, -1, 2, -1)

    @property
    def installed(self):  # Dask without its arrays is nothing here
        return find_spec("dask") is not None and find_spec("dask.array") is not None

    def setting(self):
        import dask

        return dask.config.set(scheduler=refuse_to_compute)

    def make(self, a):
        import dask.array

        return dask.array.from_array(a.copy(), chunks=self.chunks[: a.ndim] if a.ndim > 1 else 2)

    def back(self, a):
        return a.compute(scheduler="synchronous")

    def like(self, a, x):
        assert a.chunks == x.chunks


class DaskChannels(Dask):
    """Chunked along every axis, the channels' too."""

    chunks = (3, 2, 2, 2, 2, 2)


class Strict(Numpy):
    package = "array_api_strict"
    row = "array_api_strict", ""
    same_bits = False
    device = "CPU_DEVICE"

    def make(self, a):
        import array_api_strict as xp

        return xp.asarray(a.copy(), device=xp.Device(self.device))

    def back(self, a):
        import array_api_strict as xp

        return np.asarray(a.to_device(xp.Device("CPU_DEVICE")))

    def like(self, a, x):
        assert a.device == x.device


class StrictDevice(Strict):
    device = "device1"


class Cupy(Numpy):
    package = "cupy"
    row = "cupy", ""
    same_bits = False

    def missing(self):
        import cupy

        return None if cupy.is_available() else "CuPy finds no CUDA device"

    def make(self, a):
        import cupy

        return cupy.array(a)

    def back(self, a):
        return a.get()


class Backend(Enum):
    NUMPY = Numpy()
    NUMPY_READ_ONLY = ReadOnly()
    TORCH = Torch()
    TORCH_CHANNELS_LAST = TorchChannelsLast()
    TORCH_STRIDED = TorchStrided()
    TORCH_CUDA = TorchCuda()
    JAX = Jax()
    JAX_32 = Jax32()
    JAX_JIT = JaxJit()
    DASK = Dask()
    DASK_CHANNELS = DaskChannels()
    STRICT = Strict()
    STRICT_DEVICE = StrictDevice()
    CUPY = Cupy()

    def __str__(self):
        return self.name.lower().replace("_", "-")

    def __getattr__(self, name):
        """A member speaks for its kind: Backend.TORCH.make(a)."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value, name)


def refuse_to_compute(*args, **kwargs):
    """A Dask scheduler."""
    raise AssertionError("something was computed that should have stayed lazy")


INSTALLED = [backend for backend in Backend if backend.installed]


def of_framework(name):
    """The module of a framework, or a skip by its name."""
    return sys.modules.get(name) or pytest.importorskip(name, reason=f"{name} is not installed")

"""A stand-in for CuPy on NumPy's memory, whose RawModule is the emulation: the host code of the GPU path without a GPU.

Only what bnkern and array_api_compat ask of CuPy is here. `installed(Device(...))` puts it in CuPy's place. Like a
device's memory, an array does not turn into a NumPy array by itself; `get` copies it to the host.
"""

import ctypes
import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from helpers import emulator, nvrtc


@dataclass
class Chip:
    """What the stand-in says of its device."""

    multiprocessors: int = 2
    blocks: int = 2  # of any kernel, on a multiprocessor
    shared: int = 100 * 1024  # bytes of a multiprocessor
    cooperative: bool = True
    order: int = 0  # of the threads: 1 runs the last first
    capturing: bool = False
    stream: int = 0
    launches: list = field(default_factory=list)  # (kernel, grid, shared, cooperative)
    streams: list = field(default_factory=list)  # of each


chip = Chip()


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device."""

    def __init__(self, host, dtype=None, memptr=None, strides=None):
        """On NumPy's memory, or as CuPy has it: (shape, dtype, memptr, strides)."""
        self._host = host if dtype is None else np.ndarray(host, dtype, memptr.buffer, 0, strides)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    device = property(lambda self: Device(0))
    T = property(lambda self: ndarray(self._host.T))

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._host.__array_interface__["data"][0], device_id=0)

    @property
    def __cuda_array_interface__(self):
        return {**self._host.__array_interface__, "version": 3, "strides": self.strides}

    def __dlpack__(self, **options):
        return self._host.__dlpack__()

    def __dlpack_device__(self):
        return self._host.__dlpack_device__()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        assert not any(isinstance(a, np.ndarray) and a.ndim for a in inputs), "host and device in one operation"
        return _wrap(getattr(ufunc, method)(*map(_host, inputs), **{k: _host(v) for k, v in options.items()}))

    def __getitem__(self, key):
        return _wrap(self._host[key])

    def __setitem__(self, key, value):
        self._host[key] = _host(value)

    def __getattr__(self, name):  # astype, view, reshape, transpose, sum ...
        if name.startswith("_"):
            raise AttributeError(name)
        return _device_function(getattr(self._host, name))

    def get(self):
        return self._host.copy()


class Device:
    def __init__(self, number=0):
        self.id = number

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id


class Stream:
    """Current inside a `with`."""

    def __init__(self, ptr, capturing=False):
        self.ptr = ptr
        self._capturing = capturing

    @classmethod
    def from_external(cls, theirs):
        return cls(theirs.__cuda_stream__()[1])

    def is_capturing(self):
        return self._capturing

    def __enter__(self):
        self._before, chip.stream = chip.stream, self.ptr

    def __exit__(self, *error):
        chip.stream = self._before


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id):
        self.buffer = (ctypes.c_char * size).from_address(ptr)
        self.buffer.owner = owner


def MemoryPointer(memory, offset):
    assert offset == 0
    return memory


class RawModule:
    def __init__(self, *, code, options):
        self._library = emulator.Library(code, (*options, *nvrtc.CUPYS_OWN))

    def get_function(self, name):
        return RawKernel(self._library, name)


class RawKernel:
    """A kernel, and its own Function."""

    ptr = 1
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, library, name):
        self._library, self._name = library, name

    kernel = property(lambda self: self)

    def __call__(self, grid, block, args, *, shared_mem, enable_cooperative_groups):
        (value,) = args
        assert isinstance(value, np.ndarray)
        assert value.size == 1, "CuPy passes arrays of one element by value"
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "more shared memory than the kernel was promised"
        if enable_cooperative_groups:
            assert grid[0] <= chip.multiprocessors * chip.blocks, "a grid that cannot be resident"
        chip.launches.append((self._name, grid[0], shared_mem, enable_cooperative_groups))
        chip.streams.append(chip.stream)
        self._library.launch(self._name, grid[0], block[0], shared_mem, value.tobytes(), chip.order)


def _host(value):
    if isinstance(value, ndarray):
        return value._host
    return type(value)(map(_host, value)) if type(value) in (tuple, list) else value


def _wrap(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    return type(value)(map(_wrap, value)) if type(value) in (tuple, list) else value


def _device_function(function):
    def call(*args, **options):
        return _wrap(function(*map(_host, args), **{key: _host(value) for key, value in options.items()}))

    return call


def asarray(a, dtype=None):
    """A device array with a copy of a NumPy array, in its memory order, from a 16-byte boundary on."""
    a = _host(a)
    fresh = empty_like(ndarray(a), dtype=dtype)
    fresh._host[...] = a
    return fresh


def empty(shape, dtype=float, order="C"):
    return ndarray(np.empty(shape, dtype, order))


def empty_like(a, dtype=None, **_):
    return ndarray(np.empty_like(a._host, dtype=dtype, subok=False))


def _attribute(key, device):
    return {
        "MultiProcessorCount": chip.multiprocessors,
        "MaxSharedMemoryPerMultiprocessor": chip.shared,
        "MaxSharedMemoryPerBlockOptin": chip.shared - 1024,
        "ReservedSharedMemoryPerBlock": 1024,
        "CooperativeLaunch": int(chip.cooperative),
    }[key]


def _modules():
    cupy = types.ModuleType("cupy")
    for name in np.__all__:
        value = getattr(np, name)
        is_function = callable(value) and not isinstance(value, type)
        setattr(cupy, name, _device_function(value) if is_function else value)
    for mine in (ndarray, RawModule, asarray, empty, empty_like):
        setattr(cupy, mine.__name__, mine)
    runtime = types.ModuleType("cupy.cuda.runtime")
    runtime.getDevice = lambda: 0
    runtime.deviceGetAttribute = _attribute
    for key in ("MultiProcessorCount", "MaxSharedMemoryPerMultiprocessor", "MaxSharedMemoryPerBlockOptin",
                "ReservedSharedMemoryPerBlock", "CooperativeLaunch"):  # fmt: skip
        setattr(runtime, f"cudaDevAttr{key}", key)
    driver = types.ModuleType("cupy.cuda.driver")
    driver.occupancyMaxActiveBlocksPerMultiprocessor = lambda function, threads, shared: min(
        chip.blocks, chip.shared // (shared + 1024)
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.runtime, cuda.driver = runtime, driver
    for theirs in (Device, MemoryPointer, Stream, UnownedMemory):
        setattr(cuda, theirs.__name__, theirs)
    cuda.get_current_stream = lambda: Stream(chip.stream, chip.capturing)
    device = types.ModuleType("cupy.cuda.device")
    device.Device = Device
    cuda.device = device
    cupy.cuda = cuda
    linalg, fft = types.ModuleType("cupy.linalg"), types.ModuleType("cupy.fft")
    for module, of in ((linalg, np.linalg), (fft, np.fft)):
        for name in of.__all__:
            setattr(module, name, getattr(of, name))
        module.__all__ = list(of.__all__)
    cupy.linalg, cupy.fft = linalg, fft
    cupy.__all__ = [name for name in dir(cupy) if not name.startswith("_")]
    return {m.__name__: m for m in (cupy, cuda, runtime, driver, device, linalg, fft)}


@contextmanager
def installed(of=None):
    """CuPy's place, for as long as the block lasts; yields the chip."""
    global chip
    from bnkern import _dispatch, arrays
    from bnkern.engines.cuda import launch

    def forget():
        for name in [n for n in sys.modules if n.split(".")[0] == "cupy" or n.startswith("array_api_compat.cupy")]:
            del sys.modules[name]
        arrays._by_type.pop(ndarray, None)
        _dispatch._routes.clear()
        launch._kernel.cache_clear()
        launch._module.cache_clear()
        launch._own.scratch.clear()

    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "cupy"}
    forget()
    sys.modules.update(_modules())
    chip = of or Chip()
    try:
        yield chip
    finally:
        forget()
        sys.modules.update(before)

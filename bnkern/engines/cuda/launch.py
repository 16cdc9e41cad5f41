"""Kernels on devices: compiled once for each (device, source, storage type), launched on CuPy's current stream.

Everything that costs a query or a compilation is remembered: the kernels with what of the device their launches depend
on, and the scratch of each stream. No call waits for the device.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from bnkern._dtypes import ITEMSIZE
from bnkern.engines.cuda.plan import (
    ELEMENTWISE,
    THREADS,
    Geometry,
    Launch,
    Limits,
    launches,
    partial_bytes,
    shared_bytes,
)
from bnkern.engines.cuda.source import options, source


def cupy() -> Any:
    """CuPy: whoever holds one of its arrays has imported it."""
    return sys.modules["cupy"]


ABSENT = (0, 0, 0)  # a Vector that is not there

# src/cuda/args.cuh: six arrays, six vectors, results and scratch, eps, count and the activation's parameter, the
# activation, frozen, phases, geometry, keep.
_ARGS = Struct("=6Q" + 6 * "Qqq" + "4Q" + "3d" + "3q" + "13qQ" + "q")
_VALUE = np.dtype(f"V{_ARGS.size}")  # an array of one element: CuPy passes it by value

BARRIER_BYTES = 256  # at the beginning of a scratch


class Arrays(NamedTuple):
    """What a launch reads and writes, as addresses and Vectors (address, stride in elements, type); 0 for nothing."""

    x: int
    dy: int = 0
    residual: int = 0
    y: int = 0
    out: int = 0
    dresidual: int = 0
    mean: tuple[int, int, int] = ABSENT
    var: tuple[int, int, int] = ABSENT
    weight: tuple[int, int, int] = ABSENT
    bias: tuple[int, int, int] = ABSENT
    sum_dy: tuple[int, int, int] = ABSENT
    sum_dy_xhat: tuple[int, int, int] = ABSENT
    result_a: int = 0
    result_b: int = 0


class Formula(NamedTuple):
    """What a launch is told of the formula: src/formulas.h."""

    eps: float
    n: float = 1.0  # `count` of the kernels: divisor of the sums in the mean terms of dx
    activation: int = 0  # BN_IDENTITY, BN_RELU ...
    parameter: float = 0.0  # of the activation
    frozen: bool = False  # dx without the mean terms


class Kernel(NamedTuple):
    """A compiled kernel on one device."""

    function: Any  # cupy.cuda.Function
    base: int  # bytes of shared memory that it needs at least
    limits: Limits


def run(name: str, dtype: str, g: Geometry, arrays: Arrays, phases: int, operands: int, formula: Formula) -> None:
    """The phases of `forward` or `backward` on the current device and stream; both sweeps read `operands` arrays."""
    kernel = _kernel(_device(), name, g.layout, dtype)
    steps = launches(g, phases, operands, kernel.base, kernel.limits)
    held = _scratch(partial_bytes(g)) if phases != ELEMENTWISE else None
    barrier = held.data.ptr if held is not None else 0
    for step in steps:
        _launch(kernel.function, step, arrays, barrier, formula, g)


def run_vectors(name: str, to: tuple[int, int, int], value: tuple[int, int, int], channels: int,
                momentum: float = 0.0, scale: float = 1.0) -> None:  # fmt: skip
    """`ema_update` or `cast` (src/cuda/vectors.cu) on the current device and stream."""
    g = Geometry("", 0, channels, *(0,) * 12)
    step = Launch(0, -(-channels // THREADS), 0, 0, False)
    function = _kernel(_device(), name, "", None).function
    _launch(function, step, Arrays(0, mean=to, var=value), 0, Formula(momentum, scale), g)


def _launch(function: Any, step: Launch, a: Arrays, barrier: int, f: Formula, g: Geometry) -> None:
    packed = _ARGS.pack(
        a.x, a.dy, a.residual, a.y, a.out, a.dresidual, *a.mean, *a.var, *a.weight, *a.bias, *a.sum_dy, *a.sum_dy_xhat,
        a.result_a, a.result_b, barrier + BARRIER_BYTES, barrier, f.eps, f.n, f.parameter, f.activation, f.frozen,
        step.phases, *g[1:], step.keep,
    )  # fmt: skip
    function(
        (step.grid,), (THREADS,), (np.frombuffer(packed, _VALUE),), shared_mem=step.shared,
        enable_cooperative_groups=step.cooperative,
    )  # fmt: skip


# --- devices and kernels --------------------------------------------------------------------------


_used = False  # CUDA, in this process, by bnkern
_forked = False  # from one that had


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)


def _device() -> int:
    """The current device; RuntimeError in a child of a process that has used CUDA."""
    global _used
    if _forked:
        raise RuntimeError(
            "bnkern: expected a process in which CUDA works, got the fork of one that has used it; "
            "start processes with multiprocessing's method 'spawn' or 'forkserver'"
        )
    _used = True
    return int(cupy().cuda.runtime.getDevice())


@cache
def _kernel(device: int, name: str, layout: str, dtype: str | None) -> Kernel:
    """Compiled for the current device, which is `device`."""
    driver, runtime = cupy().cuda.driver, cupy().cuda.runtime
    module = _module(name if dtype else "vectors", dtype)
    raw = module.get_function(f"bn_{name}_{layout}_{dtype}" if dtype else f"bn_{name}")
    function = raw.kernel
    if dtype is None:
        return Kernel(function, 0, Limits(0, 0, False))
    base = shared_bytes(layout, ITEMSIZE[dtype])

    def attribute(key: str) -> int:
        return runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{key}"), device)

    blocks = driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, THREADS, base)
    # A quarter is left to the L1 cache, through which all loads in flight go.
    each = attribute("MaxSharedMemoryPerMultiprocessor") * 3 // 4 // blocks - attribute("ReservedSharedMemoryPerBlock")
    shared = max(base, min(attribute("MaxSharedMemoryPerBlockOptin"), each) // 1024 * 1024)
    raw.max_dynamic_shared_size_bytes = shared
    if driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, THREADS, shared) < blocks:
        shared = base  # the device divides its memory otherwise: nothing is kept on chip
    resident = blocks * attribute("MultiProcessorCount")
    return Kernel(function, base, Limits(resident, shared, bool(attribute("CooperativeLaunch"))))


@cache
def _module(name: str, dtype: str | None) -> Any:
    """CuPy compiles it for each device that asks, and keeps what it compiled on disk."""
    return cupy().RawModule(code=source(name), options=options(dtype))


# --- scratch --------------------------------------------------------------------------------------


class _OfThread(threading.local):
    """The scratch of the streams that a thread has used: its launches on a stream run one after another.

    The stream is held too: a new one at the same address would be another.
    """

    def __init__(self) -> None:
        self.scratch: dict[tuple[int, int], tuple[Any, Any]] = {}


_own = _OfThread()
_captured: list[Any] = []  # memory of calls in a CUDA graph: theirs as long as the process lives


def held(fresh: Any) -> Any:
    """`fresh`, memory that a call has allocated; what a captured call allocates never goes back to CuPy's pool.

    A graph writes to the same memory whenever it is replayed: results that the caller has dropped, and temporaries,
    must not be others' by then. Whose graph it is cannot be asked, so it is held for good.
    """
    if _capturing():
        _captured.append(fresh)
    return fresh


def _capturing() -> bool:
    stream = cupy().cuda.get_current_stream()
    return bool(stream.ptr and stream.is_capturing())


def _scratch(n: int) -> Any:
    """At least BARRIER_BYTES + n bytes, the barrier's word among the first of them, from CuPy's pool."""
    if _capturing():  # a graph may be replayed beside anything: nothing is shared with it
        return held(_zeros(n))
    stream = cupy().cuda.get_current_stream()
    key = cupy().cuda.runtime.getDevice(), stream.ptr
    scratch, _ = _own.scratch.get(key, (None, None))
    if scratch is None or scratch.nbytes < BARRIER_BYTES + n:
        scratch = _zeros(n)
        _own.scratch[key] = scratch, stream
    return scratch


def _zeros(n: int) -> Any:
    size = 1 << max(16, (BARRIER_BYTES + n - 1).bit_length())
    return cupy().zeros(size, dtype=np.uint8)

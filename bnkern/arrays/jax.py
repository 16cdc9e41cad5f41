"""JAX arrays: in CPU memory read by the CPU kernels without a copy, never written; traced ones computed by the kernels
when their program runs, sharded ones by jax.numpy.

JAX keeps a result where the kernels put it when that begins at a cache line, and copies it otherwise. Statistics are
float64 where JAX has it (`jax_enable_x64`), else float32.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bnkern._dtypes import Array
from bnkern.arrays._base import Adapter, Kind, Library, not_writable


class Jax(Library):
    name = "jax.numpy"
    from_numpy = "jax.numpy.asarray"

    def place(self, a: Array) -> str:
        if isinstance(a, sys.modules["jax"].core.Tracer):
            return "traced"
        devices = a.devices()
        if len(devices) > 1:
            return ""
        return "cpu" if next(iter(devices)).platform == "cpu" else ""

    def refuse(self, name: str, a: Array) -> None:
        deleted = getattr(a, "is_deleted", None)  # a tracer has no memory to lose
        if not isinstance(a, sys.modules["jax"].core.Tracer) and deleted is not None and deleted():
            raise ValueError(f"{name}: expected an array with its memory, got one that was deleted or donated")

    def devices(self, a: Array, ref: Array) -> tuple[Any, Any]:
        """JAX moves what no one has put anywhere. What differs is what it would refuse, or copy to another platform."""
        if "traced" in (self.place(a), self.place(ref)):
            return None, None
        here, there = a.devices(), ref.devices()
        platforms_differ = {d.platform for d in here} != {d.platform for d in there}
        if here != there and ((a.committed and ref.committed) or platforms_differ):
            return ", ".join(sorted(map(str, here))), ", ".join(sorted(map(str, there)))
        return None, None

    def writable(self, name: str, a: Array, remedy: str) -> bool:
        not_writable(name, a, remedy)


def export(a: Array) -> np.ndarray:
    """A read-only view. DLPack between JAX and NumPy has no bfloat16, which is shown by NumPy's own protocol."""
    return np.asarray(a) if a.dtype.name == "bfloat16" else np.from_dlpack(a)


def wrap(result: np.ndarray, like: Array) -> Array:
    return sys.modules["jax"].device_put(result, like.device, may_alias=True)


def _mark_written(a: Array) -> None:
    raise AssertionError("a JAX array cannot be written: `writable` has refused it")


def _in_cpu_memory(a: Array) -> bool:
    return JAX.place(a) == "cpu"


JAX = Jax()
Jax.kinds = {
    "cpu": Kind("JAX, CPU", ("cpu",), Adapter(export, wrap, _mark_written, _in_cpu_memory), writable=False),
    "traced": Kind("JAX under jit, grad, vmap (not on the CPU: array API)", ("xla", "array_api"), writable=False),
    "": Kind(
        "JAX, sharded or on other devices", ("array_api",), writable=False, why="there are kernels for one CPU device"
    ),
}

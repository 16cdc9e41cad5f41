"""JAX arrays in CPU memory on the CPU kernels, with no copy; what is traced, sharded or elsewhere goes to `generic`.

JAX keeps a result where the kernels put it when that begins at a cache line, and copies it otherwise. Its arrays
are never written. Statistics are float64 where JAX has it (`jax_enable_x64`), else float32.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bnkern._merge import cast
from bnkern._types import Array
from bnkern.backends import cpu
from bnkern.backends.lent import Loan, functions


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(x, jax.Array):
        return f"not a JAX array but {type(x).__name__}"
    if isinstance(x, jax.core.Tracer):
        return "traced: it has no values yet"
    devices = x.devices()
    if len(devices) > 1:
        return f"spread over {len(devices)} devices"
    platform = next(iter(devices)).platform
    return None if platform == "cpu" else f"no kernels for platform {platform!r}"


def _loan(arguments: tuple[Any, ...]) -> Loan | None:
    """None unless every array can be lent: a weight may be traced, or sharded, where x is not."""
    jax = sys.modules["jax"]
    for a in arguments:
        for entry in a if type(a) is tuple else (a,):
            if isinstance(entry, jax.Array) and accepts(entry) is not None:
                return None
    return Loan(cpu, jax.Array, _lend, _give, _wrote)


stats, train, inference, reduce, input_grad, backward = functions(_loan)


def narrow(v: Array, dtype: Any) -> Array:
    """By the kernels' conversion, which rounds once."""
    return _give(cast(_lend(v), dtype), v) if accepts(v) is None else cast(v, dtype)


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """Never called: `bnkern._memory.writable` has refused the buffer."""
    raise AssertionError("a JAX array cannot be written")


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """What the CPU kernels say of the lent memory: for bnkern.explain."""
    return cpu.explain(_lend(x), axis, op)


def _lend(a: Any) -> np.ndarray:
    """A read-only view. DLPack between JAX and NumPy has no bfloat16, which is lent by NumPy's own protocol."""
    return np.asarray(a) if a.dtype.name == "bfloat16" else np.from_dlpack(a)


def _give(result: np.ndarray, like: Any) -> Any:
    return sys.modules["jax"].device_put(result, like.device, may_alias=True)


def _wrote(a: Any) -> None:
    raise AssertionError("a JAX array cannot be written")

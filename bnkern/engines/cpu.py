"""NumPy arrays on the compiled kernels (bnkern._native.cpu).

`_native.cpu.run` takes arrays as they lie in memory when all of them have rows without gaps (channels first) or
channels without gaps (channels last), and returns None when they do not. Then, and only then, x is copied if no kernel
can walk it, everything else is copied to x's memory order, and the call is made again. All memory is allocated before
the first kernel runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._call import LIKE_X, OPERATIONS, Call, Results
from bnkern._dtypes import Array
from bnkern._native import cpu as _cpu
from bnkern._native import kernels, memory, vectors
from bnkern._threads import get_num_threads


def missing() -> str | None:
    return None


def run(call: Call) -> Results:
    results: Results | None = _cpu.run(call, call.passes, get_num_threads(), call.dresidual)
    return _on_copies(call) if results is None else results


def _on_copies(call: Call) -> Results:
    x = call.x
    model = x if _cpu.layout(x, call.axis) else np.array(x, _native(x), order="C", subok=False)
    copies = {name: _conform(a, model) for name, a in call.operands() if name in LIKE_X}
    other = call.replaced(**copies | {"x": model, "out": None})
    out, *vectors, dresidual = _cpu.run(other, call.passes, get_num_threads(), call.dresidual)
    return (
        None if out is None else _deliver(out, x, call.out), *vectors,
        None if dresidual is None else _deliver(dresidual, x, None),
    )  # fmt: skip


def _conform(a: Array, model: Array) -> Array:
    """A copy of `a` in the model's memory order."""
    fresh = memory.empty_like(model)
    fresh[...] = a
    return fresh


def _deliver(result: Array, x: Array, out: Array | None) -> Array:
    """A result computed on copies, where the user wants it: in `out`, else in x's memory order."""
    if out is None:
        out = np.empty_like(x, dtype=_native(x), subok=False)
    out[...] = result
    return out


def _native(x: Array) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=")


cast = vectors.cast


def ema_update(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """In place whatever the strides."""
    if not vectors.ema_update(running, value, momentum, scale):  # byte-swapped or misaligned
        fresh = running.astype(_native(running), order="C", copy=True)
        vectors.ema_update(fresh, value, momentum, scale)
        running[...] = fresh


def explain(x: Array, axis: int, op: str, threads: int) -> dict[str, Any]:
    """How a call on x would run: for bnkern.explain."""
    path = _cpu.layout(x, axis)
    walked = x if path else np.array(x, _native(x), order="C", subok=False)
    facts: dict[str, Any] = _cpu.plan_of(walked, axis, OPERATIONS[op].passes, op == "frozen", threads)
    facts["isa"] = kernels.level()
    if path is None:
        facts["bytes_moved"] += 2 * OPERATIONS[op].least * x.nbytes  # each array is read and written once more
        facts["note"] = "copied once: neither rows nor channels lie without gaps, aligned and in native byte order"
    return facts

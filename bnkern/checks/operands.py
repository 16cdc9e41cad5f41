"""The checks of the arrays beside x: kind, shape, dtype, and memory that may be written.

`bnkern.checks.calls` asks the fast checks first; here are the words.
"""

from __future__ import annotations

from typing import Any

from bnkern._call import Call, Problem
from bnkern._dtypes import PER_CHANNEL, Array, dtype_name
from bnkern._native import checks as fast
from bnkern._words import describe
from bnkern.arrays import adopted, same_library
from bnkern.arrays.memory import same_places, shared, writable


def vectors(call: Call, names: tuple[str, ...], required: int, *given: Any) -> list[Any]:
    """Per-channel arrays: (C,), float32, float64 or x's dtype. All but the first `required` may be None.

    Returns them, adopted where no library stands behind them.
    """
    p = call.problem
    if fast.vectors(call.x, p.channels, required, *given):
        return [*given]
    taken = [adopted(name, v) for name, v in zip(names, given, strict=True)]
    for i, (name, v) in enumerate(zip(names, taken, strict=True)):
        if v is not None or i < required:
            same_library(name, v, "x", call.x)
            if tuple(v.shape) != p.vector:
                meaning = f"the channels of x, shape {p.shape} with axis={p.axis}"
                expected = f"expected shape {p.vector} ({meaning})"
                raise ValueError(f"{name}: {expected}, got shape {tuple(v.shape)}{_other_axis(p, v)}")
            vector_dtype(name, v, p.dtype)
    return taken


def vector(name: str, v: Array, shape: tuple[int, ...], meaning: str, *also: str) -> None:
    """One per-channel array: of this shape, and float32, float64 or a dtype in `also`."""
    if tuple(v.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} ({meaning}), got shape {tuple(v.shape)}")
    vector_dtype(name, v, *also)


def vector_dtype(name: str, v: Array, *also: str) -> None:
    """float32, float64 or a dtype in `also`."""
    got = dtype_name(v.dtype)
    if got not in PER_CHANNEL and got not in also:
        allowed = dict.fromkeys((*PER_CHANNEL, *also))
        why = "; 16-bit vectors go with x of their own type alone, for they would round a wider result"
        why = why if got in ("float16", "bfloat16") else ""
        raise TypeError(f"{name}: expected dtype {' or '.join(allowed)}, got {v.dtype}{why}")


def _other_axis(p: Problem, v: Array) -> str:
    """A question, where a vector's length is that of another axis: of the last one in most cases (NHWC)."""
    if len(v.shape) != 1:
        return ""
    fitting = [a for a, n in enumerate(p.shape) if n == v.shape[0] and a != p.axis]
    if not fitting:
        return ""
    last = len(p.shape) - 1
    return f"; did you mean axis={-1 if last in fitting else fitting[0]}?"


def like_x(call: Call, name: str, a: Any) -> None:
    """An array of x's kind, shape and dtype (in whatever byte order and strides); the call has it by this name."""
    if fast.twin(call.x, a):
        return
    p = call.problem
    a = adopted(name, a)
    setattr(call, name, a)
    same_library(name, a, "x", call.x)
    if tuple(a.shape) != p.shape:
        raise ValueError(f"{name}: expected shape {p.shape}, as x has, got shape {tuple(a.shape)}")
    if dtype_name(a.dtype) != p.dtype:
        raise TypeError(f"{name}: expected dtype {p.dtype}, as x has, got {a.dtype}")


def output(call: Call, places: dict[str, Any], others: dict[str, Any]) -> None:
    """`out` is like x, can be written, and is exactly one of `places` or shares no memory with an input."""
    like_x(call, "out", call.out)
    out = call.out
    if fast.output(out, *places.values(), *others.values()):
        return
    writable("out", out, "leave out=None for a new array")
    for name, a in places.items():
        if a is not None and a is not out and shared(out, a) and not same_places(out, a):
            raise ValueError(f"out: expected {name} itself or memory apart from it, got an overlap in part")
    apart("out", out, others)


def apart(name: str, written: Array, read: dict[str, Any]) -> None:
    for other, a in read.items():
        if a is not None and shared(written, a):
            raise ValueError(f"{name}: expected memory of its own, got memory shared with {other}")


def running(call: Call, mean: Any, var: Any) -> None:
    """Running buffers: both or none; writable; apart from each other and from all else."""
    if fast.running(mean, var, call.x, call.weight, call.bias, call.residual, call.out):
        return
    if mean is None or var is None:
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: expected an array (running_mean and running_var go together), got None")
    remedy = "compute the new ones with bnkern.update_running instead"
    writable("running_mean", mean, remedy)
    writable("running_var", var, remedy)
    others = {"x": call.x, "weight": call.weight, "bias": call.bias, "residual": call.residual, "out": call.out}
    apart("running_var", var, {"running_mean": mean})
    apart("running_mean", mean, others)
    apart("running_var", var, others)


def statistics(stats: Any, name: str = "stats") -> tuple[Any, Any, Any]:
    """The three entries of a BatchStats or of a tuple or list like it; only their number is looked at."""
    if not isinstance(stats, (tuple, list)):
        raise TypeError(f"{name}: expected BatchStats(mean, var, count), got {describe(stats)}")
    if len(stats) != 3:
        remedy = "; running statistics are (running_mean, running_var, None) with frozen=True"
        remedy = remedy if len(stats) == 2 and name == "stats" else ""
        raise ValueError(f"{name}: expected three entries (mean, var, count), got {len(stats)}{remedy}")
    return stats[0], stats[1], stats[2]

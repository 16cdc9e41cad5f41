"""NumPy arrays on the compiled kernels (bnkern._cpu).

An entry point of `_cpu` takes arrays as they lie in memory when all of them have rows without gaps (channels first) or
channels without gaps (channels last), and returns None when they do not. Then, and only then, x is copied if no kernel
can walk it, everything else is copied to x's memory order, and the entry point is called again. All memory is allocated
before the first kernel runs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bnkern._check import Problem
from bnkern._merge import cast
from bnkern._native import cpu as _cpu
from bnkern._native import kernels, memory, vectors
from bnkern._threads import get_num_threads
from bnkern._types import Array

Vector = Array | None


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    return None if isinstance(x, np.ndarray) else f"not a NumPy array but {type(x).__name__}"


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    threads = get_num_threads()
    return _cpu.stats(x, p.axis, threads) or _cpu.stats(_model(p, x), p.axis, threads)


def train(
    p: Problem, x: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> tuple[Array, Array, Array]:
    options = weight, bias, p.axis, p.eps, p.relu, get_num_threads()
    result = _cpu.train(x, residual, out, *options)
    if result is None:
        model = _model(p, x)
        y, mean, var = _cpu.train(model, _conform(residual, model), None, *options)
        return _deliver(y, x, out), mean, var
    return result


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> Array:
    options = mean, var, weight, bias, p.axis, p.eps, p.relu, get_num_threads()
    y = _cpu.inference(x, residual, out, *options)
    if y is None:
        model = _model(p, x)
        return _deliver(_cpu.inference(model, _conform(residual, model), None, *options), x, out)
    return y


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector
) -> tuple[Array, Array]:
    options = mean, var, weight, bias, p.axis, p.eps, p.relu, get_num_threads()
    result = _cpu.reduce(dy, x, y, *options)
    if result is None:
        model = _model(p, x)
        return _cpu.reduce(_conform(dy, model), model, _conform(y, model), *options)
    return result


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector,
    sums: tuple[Array, Array] | None, count: int, out: Vector, want_dx: bool, want_dresidual: bool,
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """dx and the residual's gradient from given sums; sums=None: frozen statistics."""
    vectors = mean, var, weight, bias, *(sums or (None, None))
    options = count, sums is None, want_dresidual, p.axis, p.eps, p.relu, get_num_threads()
    result = _cpu.input_grad(dy, x, y, out, None, *vectors, *options)
    if result is None:
        model = _model(p, x)
        dx, dresidual = _cpu.input_grad(_conform(dy, model), model, _conform(y, model), None, None, *vectors, *options)
        result = _deliver(dx, x, out), _in_order_of(x, dresidual)
    return (result[0] if want_dx else None), result[1]


def backward(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector,
    frozen: bool, count: int, needs: Collection[str], out: Vector,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """Both passes, or the one that `needs` and `frozen` leave."""
    want_dx, want_dresidual = "x" in needs, "residual" in needs
    want_sums = "weight" in needs or "bias" in needs
    if not (want_dx or want_dresidual):
        return None, *reduce(p, dy, x, mean, var, weight, bias, y), None
    if frozen and not want_sums:
        dx, dresidual = input_grad(p, dy, x, mean, var, weight, bias, y, None, count, out, want_dx, want_dresidual)
        return dx, None, None, dresidual
    options = mean, var, weight, bias, count, frozen, want_dresidual, p.axis, p.eps, p.relu, get_num_threads()
    result = _cpu.backward(dy, x, y, out, None, *options)
    if result is None:
        model = _model(p, x)
        dx, *sums, dresidual = _cpu.backward(_conform(dy, model), model, _conform(y, model), None, None, *options)
        result = _deliver(dx, x, out), *sums, _in_order_of(x, dresidual)
    return result if want_dx else (None, *result[1:])


narrow = cast


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """running = (1 - momentum) * running + momentum * (value * scale), in float64, in place whatever the strides."""
    if not vectors.ema_update(running, value, momentum, scale):  # byte-swapped or misaligned
        with np.errstate(all="ignore"):
            running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * (value * scale)


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """How a call on x would run: for bnkern.explain."""
    path = _cpu.layout(x, axis)
    walked = x if path else np.array(x, _native(x), order="C", subok=False)
    facts: dict[str, Any] = _cpu.plan_of(walked, axis, op, get_num_threads())
    facts["isa"] = kernels.level()
    if path is None:
        facts["bytes_moved"] += 2 * facts["bytes_least"]  # each array is read and written once more
        facts["note"] = "copied once: neither rows nor channels lie without gaps, aligned and in native byte order"
    return facts


def _native(x: Array) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=")


def _model(p: Problem, x: Array) -> Array:
    """x itself where a kernel can walk it, else a copy of it that one can."""
    return x if _cpu.layout(x, p.axis) else np.array(x, _native(x), order="C", subok=False)


def _conform(a: Vector, model: Array) -> Vector:
    """A copy of `a` in the model's memory order."""
    if a is None:
        return None
    fresh = memory.empty_like(model)
    fresh[...] = a
    return fresh


def _in_order_of(x: Array, result: Vector) -> Vector:
    return None if result is None else _deliver(result, x, None)


def _deliver(result: Array, x: Array, out: Vector) -> Array:
    """A result computed on copies, where the user wants it: in `out`, else in x's memory order."""
    if out is None:
        out = np.empty_like(x, dtype=_native(x), subok=False)
    out[...] = result
    return out

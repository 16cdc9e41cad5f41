"""NumPy arrays on the compiled kernels (bnkern._cpu).

An entry point of `_cpu` takes arrays as they lie in memory when all of them have rows without gaps (channels first) or
channels without gaps (channels last), and returns None when they do not. Then, and only then, what does not fit is
copied here. All arrays are allocated before the first kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from bnkern import _cpu, _threads
from bnkern._check import Problem
from bnkern._types import Array

Vector = Array | None


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    return None if isinstance(x, np.ndarray) else f"not a NumPy array but {type(x).__name__}"


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    return _run(_cpu.stats, p, (x,), ())


def train(
    p: Problem, x: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> tuple[Array, Array, Array]:
    y = _like(x) if out is None else out
    mean, var = _run(_cpu.train, p, (x, residual), (y,), weight, bias, eps=p.eps, relu=p.relu)
    return y, mean, var


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> Array:
    y = _like(x) if out is None else out
    _run(_cpu.inference, p, (x, residual), (y,), mean, var, weight, bias, eps=p.eps, relu=p.relu)
    return y


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector
) -> tuple[Array, Array]:
    return _run(_cpu.reduce, p, (dy, x, y), (), mean, var, weight, bias, eps=p.eps, relu=p.relu)


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector,
    sums: tuple[Array, Array] | None, count: int, out: Vector, want_dx: bool, want_dresidual: bool,
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """dx and the residual's gradient from given sums; sums=None: frozen statistics."""
    dx = _like(x) if out is None else out
    dresidual = _like(x) if want_dresidual else None
    _run(
        _cpu.input_grad, p, (dy, x, y), (dx, dresidual), mean, var, weight, bias, *(sums or (None, None)),
        eps=p.eps, relu=p.relu, frozen=sums is None, count=count,
    )  # fmt: skip
    return (dx if want_dx else None), dresidual


def backward(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector,
    frozen: bool, count: int | None, needs: Collection[str], out: Vector,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """Both passes, or the one that `needs` and `frozen` leave."""
    want_dx, want_dresidual = "x" in needs, "residual" in needs and p.relu
    want_sums = "weight" in needs or "bias" in needs
    count = p.count if count is None else count
    if not (want_dx or want_dresidual):
        sums = reduce(p, dy, x, mean, var, weight, bias, y) if want_sums else (None, None)
        return None, *sums, None
    if frozen and not want_sums:
        dx, dresidual = input_grad(p, dy, x, mean, var, weight, bias, y, None, count, out, want_dx, want_dresidual)
        return dx, None, None, dresidual
    dx = _like(x) if out is None else out
    dresidual = _like(x) if want_dresidual else None
    sums = _run(
        _cpu.backward, p, (dy, x, y), (dx, dresidual), mean, var, weight, bias,
        eps=p.eps, relu=p.relu, frozen=frozen, count=count,
    )  # fmt: skip
    return (dx if want_dx else None), *sums, dresidual


def update_running(running: Array, value: Array, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * value, in float64, in place whatever the strides."""
    with np.errstate(all="ignore"):
        running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * value


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """How a call on x would run: for bnkern.explain."""
    path = _cpu.layout(x, axis)
    facts: dict[str, Any] = _cpu.plan_of(x if path else np.ascontiguousarray(x, _native(x)), axis, op, _threads.get_num_threads())
    facts["isa"] = _cpu.level()
    if path is None:
        facts["note"] = "copied once: neither rows nor channels lie without gaps, aligned and in native byte order"
    return facts


def _native(x: Array) -> np.dtype:
    return x.dtype.newbyteorder("=")


def _like(x: Array) -> Array:
    """A new array in x's shape and memory order."""
    return np.empty_like(x, dtype=_native(x), subok=False)


def _run(
    entry: Callable[..., Any], p: Problem, inputs: tuple[Vector, ...], outputs: tuple[Vector, ...], *vectors: Vector, **options: Any
) -> Any:
    """Call an entry point; where it declines, call it again on copies that share one layout."""
    threads = _threads.get_num_threads()
    result = entry(*inputs, *outputs, *vectors, axis=p.axis, threads=threads, **options)
    if result is not None:
        return result
    x = inputs[0]
    model = x if _cpu.layout(x, p.axis) else np.ascontiguousarray(x, _native(x))
    copies = [_conform(a, model, x, copy=True) for a in inputs]
    results = [_conform(a, model, x, copy=False) for a in outputs]
    result = entry(*copies, *results, *vectors, axis=p.axis, threads=threads, **options)
    for given, computed in zip(outputs, results, strict=True):
        if given is not None:
            given[...] = computed
    return result


def _conform(a: Vector, model: Array, x: Array, copy: bool) -> Vector:
    """`a` in the model's memory order: a copy of it, or empty memory for a result."""
    if a is None or a is x:
        return model if a is x else None
    fresh = np.empty_like(model, subok=False)
    if copy:
        fresh[...] = a
    return fresh

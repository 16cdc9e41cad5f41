"""NumPy arrays on the compiled kernels (bnkern._native.cpu).

`run` takes arrays as they lie in memory when all of them have rows without gaps (channels first) or
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
from bnkern._native import cpu, kernels, memory, vectors
from bnkern._threads import get_num_threads
from bnkern._types import Array

Vector = Array | None


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    return None if isinstance(x, np.ndarray) else f"not a NumPy array but {type(x).__name__}"


class _Call:
    """What the kernels read of a call."""

    __slots__ = (
        "activation", "axis", "bias", "count", "dy", "eps", "frozen", "mean", "out", "parameter", "residual", "sum_dy",
        "sum_dy_xhat", "var", "weight", "x", "y",
    )  # fmt: skip

    x: Any
    dy: Any
    residual: Any
    y: Any
    out: Any
    frozen: Any

    def __init__(self, p: Problem, x: Array, **operands: Any) -> None:
        for name in self.__slots__:
            setattr(self, name, operands.get(name))
        self.x, self.axis, self.eps = x, p.axis, p.eps
        self.activation, self.parameter, self.frozen = int(p.relu), 0.0, bool(self.frozen)


def _run(p: Problem, call: _Call, passes: int, dresidual: bool = False) -> Any:
    """The kernels on the arrays as they lie, or on copies."""
    threads = get_num_threads()
    result = cpu.run(call, passes, threads, dresidual)
    if result is None:
        x, out = call.x, call.out
        call.x, call.out = _model(p, x), None
        call.dy, call.residual, call.y = (_conform(a, call.x) for a in (call.dy, call.residual, call.y))
        y, *rest, masked = cpu.run(call, passes, threads, dresidual)
        y = _deliver(y, x, out) if y is not None else None
        result = y, *rest, _in_order_of(x, masked)
    return result


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    return _run(p, _Call(p, x), cpu.STATS)[1:3]


def train(
    p: Problem, x: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> tuple[Array, Array, Array]:
    call = _Call(p, x, weight=weight, bias=bias, residual=residual, out=out)
    return _run(p, call, cpu.STATS | cpu.NORMALISE)[:3]


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, residual: Vector, out: Vector
) -> Array:
    call = _Call(p, x, mean=mean, var=var, weight=weight, bias=bias, residual=residual, out=out)
    return _run(p, call, cpu.NORMALISE)[0]


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector
) -> tuple[Array, Array]:
    call = _Call(p, x, dy=dy, mean=mean, var=var, weight=weight, bias=bias, y=y)
    return _run(p, call, cpu.REDUCE)[3:5]


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Vector, bias: Vector, y: Vector,
    sums: tuple[Array, Array] | None, count: int, out: Vector, want_dx: bool, want_dresidual: bool,
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """dx and the residual's gradient from given sums; sums=None: frozen statistics."""
    sum_dy, sum_dy_xhat = sums or (None, None)
    call = _Call(
        p, x, dy=dy, mean=mean, var=var, weight=weight, bias=bias, y=y, out=out, count=count, frozen=sums is None,
        sum_dy=sum_dy, sum_dy_xhat=sum_dy_xhat,
    )  # fmt: skip
    dx, *_, dresidual = _run(p, call, cpu.INPUT_GRAD, want_dresidual)
    return (dx if want_dx else None), dresidual


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
    call = _Call(
        p, x, dy=dy, mean=mean, var=var, weight=weight, bias=bias, y=y, out=out, count=count, frozen=frozen
    )
    dx, _, _, sum_dy, sum_dy_xhat, dresidual = _run(p, call, cpu.REDUCE | cpu.INPUT_GRAD, want_dresidual)
    return (dx if want_dx else None), sum_dy, sum_dy_xhat, dresidual


narrow = cast


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """running = (1 - momentum) * running + momentum * (value * scale), in float64, in place whatever the strides."""
    if not vectors.ema_update(running, value, momentum, scale):  # byte-swapped or misaligned
        with np.errstate(all="ignore"):
            running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * (value * scale)


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """How a call on x would run: for bnkern.explain."""
    path = cpu.layout(x, axis)
    walked = x if path else np.array(x, _native(x), order="C", subok=False)
    passes = {
        "train": cpu.STATS | cpu.NORMALISE, "inference": cpu.NORMALISE, "stats": cpu.STATS,
        "backward": cpu.REDUCE | cpu.INPUT_GRAD, "frozen": cpu.INPUT_GRAD,
    }  # fmt: skip
    facts: dict[str, Any] = cpu.plan_of(walked, axis, passes[op], op == "frozen", get_num_threads())
    facts["isa"] = kernels.level()
    if path is None:
        facts["bytes_moved"] += 2 * facts["bytes_least"]  # each array is read and written once more
        facts["note"] = "copied once: neither rows nor channels lie without gaps, aligned and in native byte order"
    return facts


def _native(x: Array) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=")


def _model(p: Problem, x: Array) -> Array:
    """x itself where a kernel can walk it, else a copy of it that one can."""
    return x if cpu.layout(x, p.axis) else np.array(x, _native(x), order="C", subok=False)


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

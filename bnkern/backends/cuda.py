"""CuPy arrays on the GPU kernels (src/cuda/), on x's device and CuPy's current stream.

The kernels walk x as it lies in memory when it has no gaps, in whatever order of axes; else x is copied once, on the
device. Everything of x's shape is brought to x's memory order the same way. bfloat16 comes as ml_dtypes' type or, from
libraries that CuPy shares no such type with, as uint16.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bnkern._args import DTYPES, dtype_name
from bnkern._check import Problem
from bnkern._types import Array
from bnkern.backends import _cuda_launch
from bnkern.backends._cuda_launch import ABSENT, Arrays, Formula, cupy, held
from bnkern.backends._cuda_plan import ELEMENTWISE, MERGE, REDUCTION, SLOT, Geometry, geometry, normal_form, same_order

Maybe = Array | None
Vector = tuple[int, int, int]

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3, "uint16": 3}  # BN_F32 ... in src/dtypes.h


def accepts(x: Array) -> str | None:
    """None: this backend takes x. Otherwise the reason why not."""
    library = sys.modules.get("cupy")
    if library is not None and isinstance(x, library.ndarray):
        return None
    return f"not a CuPy array but {type(x).__name__}"


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    with _on_device_of(x):
        model, g = _model(p, x)
        mean, var = _results(p)
        arrays = Arrays(_at(model), result_a=_at(mean), result_b=_at(var))
        _cuda_launch.run("forward", p.dtype, g, arrays, REDUCTION | MERGE, 1, Formula(p.eps))
        return mean, var


def train(
    p: Problem, x: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
) -> tuple[Array, Array, Array]:
    with _on_device_of(x):
        mean, var = _results(p)
        y = _forward(p, x, mean, var, weight, bias, residual, out, REDUCTION | MERGE | ELEMENTWISE)
        return y, mean, var


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
) -> Array:
    with _on_device_of(x):
        return _forward(p, x, mean, var, weight, bias, residual, out, ELEMENTWISE)


def _forward(
    p: Problem, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe, phases: int
) -> Array:
    """Where statistics are computed too, `mean` and `var` are where they go."""
    model, g = _model(p, x)
    added, y = _like(residual, model), _target(out, model)
    results = (_at(mean), _at(var)) if phases & MERGE else (0, 0)
    arrays = Arrays(
        _at(model), 0, _at(added), 0, _at(y), 0, _vector(mean), _vector(var), _vector(weight), _vector(bias),
        ABSENT, ABSENT, *results,
    )  # fmt: skip
    _cuda_launch.run("forward", p.dtype, g, arrays, phases, 1, Formula(p.eps, activation=int(p.relu)))
    return _deliver(y, out)


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe
) -> tuple[Array, Array]:
    with _on_device_of(x):
        sums = _results(p)
        _backward(p, dy, x, mean, var, weight, bias, y, sums, 1, None, True, False, False, REDUCTION | MERGE)
        return sums


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
    sums: tuple[Array, Array] | None, count: int, out: Maybe, want_dx: bool, want_dresidual: bool,
) -> tuple[Maybe, Maybe]:  # fmt: skip
    """dx and the residual's gradient from given sums; sums=None: frozen statistics."""
    with _on_device_of(x):
        return _backward(
            p, dy, x, mean, var, weight, bias, y, sums, count, out, sums is None, want_dx, want_dresidual, ELEMENTWISE
        )


def backward(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
    frozen: bool, count: int, needs: Collection[str], out: Maybe,
) -> tuple[Maybe, Maybe, Maybe, Maybe]:  # fmt: skip
    """Both passes in one, or the one that `needs` and `frozen` leave."""
    want_dx, want_dresidual = "x" in needs, "residual" in needs
    want_sums = "weight" in needs or "bias" in needs or (want_dx and not frozen)
    phases = (REDUCTION | MERGE) * want_sums | ELEMENTWISE * (want_dx or want_dresidual)
    with _on_device_of(x):
        sums = _results(p) if want_sums else None
        dx, dresidual = _backward(
            p, dy, x, mean, var, weight, bias, y, sums, count, out, frozen, want_dx, want_dresidual, phases
        )
        sum_dy, sum_dy_xhat = sums or (None, None)
        return dx, sum_dy, sum_dy_xhat, dresidual


def _backward(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
    sums: tuple[Array, Array] | None, count: int, out: Maybe, frozen: bool, want_dx: bool, want_dresidual: bool,
    phases: int,
) -> tuple[Maybe, Maybe]:  # fmt: skip
    """Where sums are computed too, `sums` is where they go."""
    model, g = _model(p, x)
    given = _like(y, model) if p.relu else None
    dy = _like(dy, model)
    dx = _target(out, model) if want_dx else None
    dresidual = _fresh(model) if want_dresidual else None
    arrays = Arrays(
        _at(model), _at(dy), 0, _at(given), _at(dx), _at(dresidual), _vector(mean), _vector(var), _vector(weight),
        _vector(bias), *(map(_vector, sums) if sums else (ABSENT, ABSENT)),
        *(map(_at, sums) if sums and phases & MERGE else (0, 0)),
    )  # fmt: skip
    formula = Formula(p.eps, max(count, 1), int(p.relu), frozen=bool(frozen))
    _cuda_launch.run("backward", p.dtype, g, arrays, phases, 2 if given is None else 3, formula)
    return (_deliver(dx, out) if want_dx else None), dresidual


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """running = (1 - momentum) * running + momentum * (value * scale), in float64, in place whatever the strides."""
    with _on_device_of(running):
        _cuda_launch.run_vectors("ema_update", _vector(running), _vector(value), running.size, momentum, scale)


def narrow(v: Array, dtype: Any) -> Array:
    """A vector in another dtype, rounded once; what is too large for it is Inf."""
    with _on_device_of(v):
        result = held(cupy().empty(v.shape, dtype))
        _cuda_launch.run_vectors("cast", _vector(result), _vector(v), v.size)
        return result


def explain(x: Array, axis: int, op: str) -> dict[str, Any]:
    """How a call on x would run: for bnkern.explain."""
    itemsize = x.dtype.itemsize
    form = _form(x, axis)
    note = "compiled at first use by NVRTC; what fits is kept on chip between the sweeps"
    copies = 0
    if form is None:
        copies = 2
        note = "copied once, on the device: x has gaps, or does not lie at a multiple of its element's size; " + note
        rest = [n for a, n in enumerate(x.shape) if a != axis % x.ndim]
        form = int(np.prod(rest)), x.shape[axis], 1
    g = geometry(*form, itemsize, 0)
    layout = f"channels {'last' if form[2] == 1 else 'first'}, {g.units} units of work"
    moved = {"train": 3, "inference": 2, "backward": 5, "stats": 1}[op]
    return {"layout": layout, "bytes_moved": (moved + copies) * x.size * itemsize, "note": note}


# --- memory ---------------------------------------------------------------------------------------


def _on_device_of(x: Array) -> AbstractContextManager[Any]:
    """x's device as the current one; switching costs more than looking."""
    cuda = cupy().cuda
    device: int = x.data.device_id
    return nullcontext() if cuda.runtime.getDevice() == device else cuda.Device(device)


def _form(x: Array, axis: int) -> tuple[int, int, int] | None:
    if x.data.ptr % x.dtype.itemsize:
        return None
    return normal_form(x.shape, x.strides, x.dtype.itemsize, axis % x.ndim)


def _model(p: Problem, x: Array) -> tuple[Array, Geometry]:
    """x itself where the kernels can walk it, else a copy of it that they can; and how they do."""
    form = _form(x, p.axis)
    if form is None:
        x = _copy(x, _fresh(x))
        form = _form(x, p.axis)
        assert form is not None
    itemsize = DTYPES[p.dtype].itemsize
    return x, geometry(*form, itemsize, x.data.ptr % SLOT // itemsize)


def _fresh(like: Array) -> Array:
    """New memory without gaps, in the order of `like`."""
    return held(cupy().empty_like(like))


def _copy(a: Array, to: Array) -> Array:
    to[...] = a
    return to


def _conforms(a: Array, model: Array) -> bool:
    return same_order(model.shape, a.strides, model.strides) and a.data.ptr % a.dtype.itemsize == 0


def _like(a: Maybe, model: Array) -> Maybe:
    """`a` in the model's memory order."""
    return a if a is None or _conforms(a, model) else _copy(a, _fresh(model))


def _target(out: Maybe, model: Array) -> Array:
    """Where the kernels write: `out` where they can, else memory like the model's."""
    return out if out is not None and _conforms(out, model) else _fresh(model)


def _deliver(result: Array, out: Maybe) -> Array:
    return result if out is None or out is result else _copy(result, out)


def _results(p: Problem) -> tuple[Array, Array]:
    empty = cupy().empty
    return held(empty(p.vector, np.float64)), held(empty(p.vector, np.float64))


def _at(a: Maybe) -> int:
    return 0 if a is None else int(a.data.ptr)


def _vector(v: Maybe) -> Vector:
    if v is None:
        return ABSENT
    return int(v.data.ptr), v.strides[0] // v.dtype.itemsize, _TYPES[dtype_name(v.dtype)]

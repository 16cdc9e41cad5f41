"""CuPy arrays on the GPU kernels (src/cuda/), on x's device and CuPy's current stream.

The kernels walk x as it lies in memory when it has no gaps, in whatever order of axes; else x is copied once, on the
device. Everything of x's shape is brought to x's memory order the same way. bfloat16 comes as ml_dtypes' type or, from
libraries that CuPy shares no such type with, as uint16.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np

from bnkern._call import INPUT_GRAD, NORMALISE, OPERATIONS, REDUCE, STATS, Call, Problem, Results
from bnkern._dtypes import ITEMSIZE, Array, dtype_name
from bnkern.engines.cuda import launch
from bnkern.engines.cuda.launch import ABSENT, Arrays, Formula, cupy, held
from bnkern.engines.cuda.plan import ELEMENTWISE, MERGE, REDUCTION, SLOT, Geometry, geometry, normal_form, same_order

Maybe = Array | None
Vector = tuple[int, int, int]

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3, "uint16": 3}  # BN_F32 ... in src/dtypes.h


def missing() -> str | None:
    """Why the kernels cannot run in this process; CuPy, which compiles and launches them, is imported to see."""
    try:
        import_module("cupy")
    except ImportError:
        return "CuPy is not installed, which compiles the GPU kernels (pip install '.[cuda]')"
    return None


def run(call: Call) -> Results:
    """All passes in one launch where the device can, else in as many as it takes."""
    with _on_device_of(call.x):
        return _forward(call) if call.passes & (STATS | NORMALISE) else _backward(call)


def _phases(reduction: int, elementwise: int) -> int:
    return (REDUCTION | MERGE) * bool(reduction) | ELEMENTWISE * bool(elementwise)


def _forward(call: Call) -> Results:
    """Where statistics are computed, `mean` and `var` are where they go."""
    p, elementwise = call.problem, call.passes & NORMALISE
    model, g = _model(p, call.x)
    computed = _results(p) if call.passes & STATS else (None, None)
    mean, var = computed if call.passes & STATS else (call.mean, call.var)
    y = _target(call.out, model) if elementwise else None
    residual = _like(call.residual, model)  # held, as all that may be a copy, until it is launched
    arrays = Arrays(
        _at(model), residual=_at(residual), out=_at(y), mean=_vector(mean), var=_vector(var),
        weight=_vector(call.weight), bias=_vector(call.bias), result_a=_at(computed[0]), result_b=_at(computed[1]),
    )  # fmt: skip
    phases = _phases(call.passes & STATS, elementwise)
    formula = Formula(p.eps, activation=call.activation, parameter=call.parameter)
    launch.run("forward", p.dtype, g, arrays, phases, 1, formula)
    return (None if y is None else _deliver(y, call.out)), *computed, None, None, None


def _backward(call: Call) -> Results:
    """Where sums are computed, `sum_dy` and `sum_dy_xhat` are where they go."""
    p, reduction = call.problem, call.passes & REDUCE
    model, g = _model(p, call.x)
    computed = _results(p) if reduction else (None, None)
    sums = computed if reduction else (call.sum_dy, call.sum_dy_xhat)
    dx = _target(call.out, model) if call.passes & INPUT_GRAD and "x" in call.needs else None
    dresidual = _fresh(model) if call.dresidual else None
    dy, y = _like(call.dy, model), _like(call.y, model) if call.activation else None
    arrays = Arrays(
        _at(model), _at(dy), 0, _at(y), _at(dx), _at(dresidual), _vector(call.mean), _vector(call.var),
        _vector(call.weight), _vector(call.bias), _vector(sums[0]), _vector(sums[1]),
        _at(computed[0]), _at(computed[1]),
    )  # fmt: skip
    formula = Formula(p.eps, max(call.count, 1), call.activation, call.parameter, call.frozen)
    phases = _phases(reduction, call.passes & INPUT_GRAD)
    launch.run("backward", p.dtype, g, arrays, phases, 2 if y is None else 3, formula)
    return (None if dx is None else _deliver(dx, call.out)), None, None, *computed, dresidual


def ema_update(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    """In place whatever the strides."""
    with _on_device_of(running):
        launch.run_vectors("ema_update", _vector(running), _vector(value), running.size, momentum, scale)


def cast(v: Array, dtype: Any) -> Array:
    """A vector in another dtype, rounded once; what is too large for it is Inf."""
    with _on_device_of(v):
        result = held(cupy().empty(v.shape, dtype))
        launch.run_vectors("cast", _vector(result), _vector(v), v.size)
        return result


def explain(x: Array, axis: int, op: str, threads: int) -> dict[str, Any]:
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
    moved = OPERATIONS[op].two_sweeps + copies
    return {"layout": layout, "bytes_moved": moved * x.size * itemsize, "note": note}


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
    itemsize = ITEMSIZE[p.dtype]
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

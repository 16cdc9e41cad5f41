"""Numbers per channel of any library: computed by the kernels' one implementation wherever they lie in CPU memory.

Elsewhere (on a GPU, in a trace, in a graph of chunks) the array's own library computes the same formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._dispatch import route_of
from bnkern._dtypes import Array, dtype_name, namespace, native
from bnkern._native import vectors as _native
from bnkern._numbers import traced
from bnkern.arrays import adopted
from bnkern.arrays._base import Adapter
from bnkern.checks.vectors import Fold, Part
from bnkern.engines import array_api, cpu, vectors

_ndarray = np.ndarray
_dtype = np.dtype
_FLOAT32 = _dtype(np.float32)


class _Place:
    """Where vectors like `ref` are computed: by which arithmetic, and how they get there and back."""

    def __init__(self, ref: Array, *others: Array | None) -> None:
        self.ref = ref
        self.adapter: Adapter | None = None
        if type(ref) is _ndarray:
            self.by = vectors.NUMPY
            return
        route = route_of(ref)
        given = [v for v in (ref, *others) if v is not None]
        takes = route.adapter and route.adapter.takes
        if route.name == "cpu" and (not takes or all(map(takes, given))):
            self.adapter, self.by = route.adapter, vectors.NUMPY
        else:
            self.by = array_api.arithmetic(ref)
            if route.name == "cuda":
                self.by = self.by._replace(cast=_cast_any_shape)

    def export(self, v: Array | None) -> Array | None:
        return v if v is None or self.adapter is None else self.adapter.export(v)

    def wrap(self, v: Array) -> Array:
        return v if self.adapter is None else self.adapter.wrap(v, self.ref)


def merge(parts: list[Part]) -> Part:
    """Statistics of the whole."""
    if any(traced(n) for _, _, n in parts):
        return vectors.merge(array_api.arithmetic(parts[0][0]), parts)
    place = _Place(parts[0][0], *(v for part in parts for v in part[:2]))
    mean, var, count = vectors.merge(place.by, [(place.export(m), place.export(v), n) for m, v, n in parts])
    return place.wrap(mean), place.wrap(var), count


def updated(running: Array, value: Array, momentum: float, scale: float) -> Array:
    """New running statistics: (1 - momentum) * running + momentum * (value * scale)."""
    if traced(momentum) or traced(scale):
        return vectors.ema(array_api.arithmetic(running), running, value, momentum, scale)
    place = _Place(running, value)
    return place.wrap(vectors.ema(place.by, place.export(running), place.export(value), momentum, scale))


def updated_by_traced(
    running_mean: Array, running_var: Array, stats: Part, momentum: float, correction: float
) -> tuple[Array, Array]:
    """The same of both, where the count has no value yet: a count of 0 leaves the running statistics as they are."""
    mean, var, count = stats
    xp = namespace(mean)
    number = xp.astype(xp.asarray(count), mean.dtype)
    scale = number / xp.where(number > correction, number - correction, xp.ones_like(number))
    return (
        xp.where(number > 0, updated(running_mean, mean, momentum, 1.0), running_mean),
        xp.where(number > 0, updated(running_var, var, momentum, scale), running_var),
    )


def copied(v: Array) -> Array:
    """A new array with v's numbers."""
    v = adopted("array", v)
    place = _Place(v)
    exported: Any = place.export(v)
    return place.wrap(place.by.cast(place.by.wide(exported), native(exported.dtype)))


def fold(given: Fold) -> tuple[Array, Array]:
    """Weight and bias of the layer that does both."""
    place = _Place(given.conv_weight, *given[1:6])
    arrays = [place.export(v) for v in given[:6]]
    conv_weight, conv_bias, mean, var, weight, bias = arrays
    weight, bias = vectors.fold(
        place.by, conv_weight, conv_bias, mean, var, weight, bias, given.eps, given.axis, given.groups
    )
    return place.wrap(weight), place.wrap(bias)


def ema_update(running: Array, value: Array, momentum: float, scale: float) -> None:
    """The same as `updated`, in place."""
    if type(running) is _ndarray:
        cpu.ema_update(running, value, momentum, scale)
        return
    running = adopted("running", running)
    if type(running) is _ndarray:
        cpu.ema_update(running, value, momentum, scale)
        return
    route = route_of(running)
    if route.adapter is None:
        with np.errstate(all="ignore"):
            route.engine.ema_update(running, value, momentum, scale)
        return
    arguments = route.adapter.export(running), route.adapter.export(value), momentum, scale
    if route.adapter.around is None:
        route.engine.ema_update(*arguments)
    else:
        with route.adapter.around(running):
            route.engine.ema_update(*arguments)
    route.adapter.mark_written(running)


def ema_update_both(mean: Array, new_mean: Array, var: Array, new_var: Array, momentum: float, scale: float) -> None:
    """The running statistics of a batch, in place; `scale` is that of the variance."""
    if not _native.ema_update_both(mean, new_mean, var, new_var, momentum, scale):
        ema_update(mean, new_mean, momentum, 1.0)
        ema_update(var, new_var, momentum, scale)


def cast(v: Array, dtype: Any) -> Array:
    """A vector in another dtype: rounded once, Inf where it is too large."""
    if type(v) is _ndarray:
        return _native.cast(v, native(np.dtype(dtype)))
    route = route_of(v)
    adapter = route.adapter
    if adapter is None or (adapter.takes and not adapter.takes(v)):
        with np.errstate(all="ignore"):
            return route.engine.cast(v, dtype) if adapter is None else array_api.cast(v, dtype)
    name = dtype_name(dtype)
    to = native(dtype) if isinstance(dtype, np.dtype) else np.dtype(np.uint16 if name == "bfloat16" else name)
    if adapter.around is None:
        return adapter.wrap(route.engine.cast(adapter.export(v), to), v)
    with adapter.around(v):
        return adapter.wrap(route.engine.cast(adapter.export(v), to), v)


def _cast_any_shape(a: Array, dtype: Any) -> Array:
    return cast(a.reshape(-1), dtype).reshape(a.shape)


def cast_each(dtype: Any, *given: Array | None) -> list[Array | None]:
    """Vectors in the dtype of a result (in native order); None stays None."""
    if dtype is not _FLOAT32:  # the common case in no time
        dtype = native(dtype)
    if isinstance(dtype, _dtype):
        plain: list[Array | None] | None = _native.cast_each(dtype, given)
        if plain is not None:
            return plain
    return [v if v is None or v.dtype is dtype or v.dtype == dtype else cast(v, dtype) for v in given]

"""Any array library, by the array API standard alone: the readable reference, and the fallback.

Everything is computed in float64 where the library has it, and rounded to x's dtype at the end. Statistics take two
passes, about the first value of each channel, so that a constant channel has exactly its value for mean and 0 for var.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._activations import BY_NUMBER
from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS, Call, Problem, Results
from bnkern._dtypes import Array, device_of, namespace, native
from bnkern._numbers import traced
from bnkern.arrays import known_library
from bnkern.engines import vectors


def missing() -> str | None:
    return None


def run(call: Call) -> Results:
    """The passes one after another, each by its formula."""
    w = _Wide(call.problem, call.x)
    out = mean = var = sum_dy = sum_dy_xhat = dresidual = None
    with np.errstate(all="ignore"):
        if call.passes & STATS:
            mean, var = _stats(w)
            call = call.replaced(mean=mean, var=var)
        if call.passes & NORMALISE:
            out = _delivered(_normalised(w, call), w, call)
        if call.passes & (REDUCE | INPUT_GRAD):
            xhat = w.xhat(call.mean, call.var)
            dz = _behind_activation(w, call, xhat)
            if call.passes & REDUCE:
                sum_dy, sum_dy_xhat = w.xp.sum(dz, axis=w.others), w.xp.sum(dz * xhat, axis=w.others)
                call = call.replaced(sum_dy=sum_dy, sum_dy_xhat=sum_dy_xhat)
            if call.dresidual:
                dresidual = w.like_x(w.down(dz))
            if call.passes & INPUT_GRAD and "x" in call.needs:
                out = _delivered(_input_grad(w, call, xhat, dz), w, call)
    return out, mean, var, sum_dy, sum_dy_xhat, dresidual


def _stats(w: _Wide) -> tuple[Array, Array]:
    p, xp = w.p, w.xp
    if not p.size:
        return w.zeros(), w.zeros()
    wide = w.up(w.x)
    first = wide[tuple(slice(None) if a == p.axis else slice(0, 1) for a in range(len(p.shape)))]
    first = xp.where(xp.isfinite(first), first, xp.zeros_like(first))  # Inf - Inf would make a mean of Inf NaN
    mean = first + xp.mean(wide - first, axis=w.others, keepdims=True)
    var = xp.mean((wide - mean) ** 2, axis=w.others)
    return xp.reshape(mean, p.vector), var


def _normalised(w: _Wide, call: Call) -> Array:
    z = w.affine(w.xhat(call.mean, call.var), call.weight, call.bias)
    if call.residual is not None:
        z = z + w.up(call.residual)
    return BY_NUMBER[call.activation].forward(w.xp, z, call.parameter) if call.activation else z


def _behind_activation(w: _Wide, call: Call, xhat: Array) -> Array:
    """The gradient of z. Where z is computed again it is rounded as y was: a z that underflowed to 0 was cut off."""
    dy = w.up(call.dy)
    if not call.activation:
        return dy
    z = w.down(w.affine(xhat, call.weight, call.bias)) if call.y is None else call.y
    return BY_NUMBER[call.activation].backward(w.xp, z, dy, call.parameter)


def _input_grad(w: _Wide, call: Call, xhat: Array, dz: Array) -> Array:
    if not call.frozen:
        n = call.count if traced(call.count) else float(max(call.count, 1))
        dz = dz - w.spread(call.sum_dy) / n - xhat * (w.spread(call.sum_dy_xhat) / n)
    return w.affine(dz * w.invstd(call.var), call.weight, None)


def _delivered(result: Array, w: _Wide, call: Call) -> Array:
    result = w.like_x(w.down(result))
    if call.out is None:
        return result
    call.out[...] = result
    return call.out


class _Wide:
    """The arithmetic of one problem: up to the wide dtype, spread along the channel axis, down to x's."""

    def __init__(self, p: Problem, x: Array) -> None:
        self.p, self.x = p, x
        self.xp: Any = namespace(x)
        self.library = known_library(x)
        self.dtype = self.library.widest(x)
        self.others = tuple(a for a in range(len(p.shape)) if a != p.axis)

    def up(self, a: Array) -> Array:
        return self.xp.astype(a, self.dtype)

    def down(self, a: Array) -> Array:
        return self.xp.astype(a, native(self.x.dtype), copy=False)

    def like_x(self, a: Array) -> Array:
        return self.library.ordered_like(a, self.x)

    def zeros(self) -> Array:
        return self.xp.zeros(self.p.vector, dtype=self.dtype, device=device_of(self.x))

    def spread(self, v: Array) -> Array:
        """A per-channel vector in a shape that broadcasts along the channel axis."""
        shape = [1] * len(self.p.shape)
        shape[self.p.axis] = self.p.channels
        return self.xp.reshape(self.up(v), tuple(shape))

    def invstd(self, var: Array) -> Array:
        return 1.0 / self.xp.sqrt(self.spread(var) + self.p.eps)

    def xhat(self, mean: Array, var: Array) -> Array:
        return (self.up(self.x) - self.spread(mean)) * self.invstd(var)

    def affine(self, a: Array, weight: Array | None, bias: Array | None) -> Array:
        if weight is not None:
            a = a * self.spread(weight)
        return a if bias is None else a + self.spread(bias)


# --- numbers per channel --------------------------------------------------------------------------


def cast(v: Array, dtype: Any) -> Array:
    return known_library(v).cast(v, dtype)


def arithmetic(v: Array) -> vectors.Arithmetic:
    """The arithmetic of v's own library."""
    xp, dtype = namespace(v), known_library(v).widest(v)
    return vectors.Arithmetic(xp, lambda a: xp.astype(a, dtype), cast)


def ema_update(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    running[...] = vectors.ema(arithmetic(running), running, value, momentum, scale)

"""Any array library, by the array API standard alone: the readable reference, and the fallback.

Everything is computed in float64 where the library has it, and rounded to x's dtype at the end. Statistics
take two passes, about the first value of each channel, so that a constant channel has exactly its value for
mean and 0 for var.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnkern._args import namespace, native, widest
from bnkern._check import Problem
from bnkern._merge import blend, cast
from bnkern._types import Array

Maybe = Array | None


def accepts(x: Array) -> str | None:
    """None: takes it. NumPy arrays come here only when they are empty, or by a direct call."""
    if isinstance(x, (np.ndarray, np.generic)) or not hasattr(x, "shape"):
        return "takes arrays of the array API standard other than NumPy's"
    import array_api_compat

    return None if array_api_compat.is_array_api_obj(x) else "not an array of the array API standard"


def stats(p: Problem, x: Array) -> tuple[Array, Array]:
    w = _Wide(p, x)
    if not p.size:
        return w.zeros(), w.zeros()
    with np.errstate(all="ignore"):
        wide = w.up(x)
        first = wide[tuple(slice(None) if a == p.axis else slice(0, 1) for a in range(len(p.shape)))]
        mean = first + w.xp.mean(wide - first, axis=w.others, keepdims=True)
        var = w.xp.mean((wide - mean) ** 2, axis=w.others)
        return w.xp.reshape(mean, p.vector), var


def inference(
    p: Problem, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
) -> Array:
    w = _Wide(p, x)
    with np.errstate(all="ignore"):
        z = w.affine(w.xhat(mean, var), weight, bias)
        if residual is not None:
            z = z + w.up(residual)
        return _deliver(w.like_x(w.down(w.relu(z) if p.relu else z)), out)


def reduce(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe
) -> tuple[Array, Array]:
    w = _Wide(p, x)
    with np.errstate(all="ignore"):
        xhat = w.xhat(mean, var)
        g = w.masked(dy, xhat, weight, bias, y)
        return w.xp.sum(g, axis=w.others), w.xp.sum(g * xhat, axis=w.others)


def input_grad(
    p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
    sums: tuple[Array, Array] | None, count: int, out: Maybe, want_dx: bool, want_dresidual: bool,
) -> tuple[Maybe, Maybe]:  # fmt: skip
    w = _Wide(p, x)
    with np.errstate(all="ignore"):
        xhat = w.xhat(mean, var)
        g = w.masked(dy, xhat, weight, bias, y)
        dresidual = w.like_x(w.down(g)) if want_dresidual else None
        if not want_dx:
            return None, dresidual
        if sums is not None:
            n = float(max(count, 1))
            g = g - w.spread(sums[0]) / n - xhat * (w.spread(sums[1]) / n)
        dx = w.affine(g * w.invstd(var), weight, None)
        return _deliver(w.like_x(w.down(dx)), out), dresidual


def in_two(stats: Callable[..., Any], inference: Callable[..., Any]) -> Callable[..., Any]:
    """`Backend.train` of its two passes."""

    def train(
        p: Problem, x: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
    ) -> tuple[Array, Array, Array]:
        mean, var = stats(p, x)
        return inference(p, x, mean, var, weight, bias, residual, out), mean, var

    return train


def joined(reduce: Callable[..., Any], input_grad: Callable[..., Any]) -> Callable[..., Any]:
    """`Backend.backward` of its two passes, each where it is needed."""

    def backward(
        p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
        frozen: bool, count: int, needs: frozenset[str], out: Maybe,
    ) -> tuple[Maybe, Maybe, Maybe, Maybe]:  # fmt: skip
        want_dx, want_dresidual = "x" in needs, "residual" in needs
        sums, dx, dresidual = None, None, None
        if "weight" in needs or "bias" in needs or (want_dx and not frozen):
            sums = reduce(p, dy, x, mean, var, weight, bias, y)
        if want_dx or want_dresidual:
            terms = None if frozen else sums
            dx, dresidual = input_grad(
                p, dy, x, mean, var, weight, bias, y, terms, count, out, want_dx, want_dresidual
            )
        sum_dy, sum_dy_xhat = sums or (None, None)
        return dx, sum_dy if "bias" in needs else None, sum_dy_xhat if "weight" in needs else None, dresidual

    return backward


train = in_two(stats, inference)
backward = joined(reduce, input_grad)


narrow = cast


def update_running(running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
    with np.errstate(all="ignore"):
        running[...] = blend(running, value * scale, momentum)


def _deliver(result: Array, out: Maybe) -> Array:
    if out is None:
        return result
    out[...] = result
    return out


class _Wide:
    """x and its channels in the widest dtype there is: the few steps of which all passes are made."""

    def __init__(self, p: Problem, x: Array) -> None:
        self.p, self.x = p, x
        self.xp: Any = namespace(x)
        self.dtype = widest(self.xp, x)
        self.others = tuple(a for a in range(len(p.shape)) if a != p.axis)

    def up(self, a: Array) -> Array:
        return self.xp.astype(a, self.dtype)

    def down(self, a: Array) -> Array:
        return self.xp.astype(a, native(self.x.dtype), copy=False)

    def like_x(self, a: Array) -> Array:
        """`a` in x's memory order, where it was computed from arrays in another and the library has one to keep."""
        if not hasattr(a, "stride") or a.stride() == self.x.stride():  # PyTorch's; others give no choice
            return a
        fresh = self.xp.empty_like(self.x)
        fresh[...] = a
        return fresh

    def zeros(self) -> Array:
        return self.xp.zeros(self.p.vector, dtype=self.dtype, device=_device(self.x))

    def spread(self, v: Array) -> Array:
        """A per-channel vector in a shape that broadcasts along the channel axis."""
        shape = [1] * len(self.p.shape)
        shape[self.p.axis] = self.p.channels
        return self.xp.reshape(self.up(v), tuple(shape))

    def invstd(self, var: Array) -> Array:
        return 1.0 / self.xp.sqrt(self.spread(var) + self.p.eps)

    def xhat(self, mean: Array, var: Array) -> Array:
        return (self.up(self.x) - self.spread(mean)) * self.invstd(var)

    def affine(self, a: Array, weight: Maybe, bias: Maybe) -> Array:
        if weight is not None:
            a = a * self.spread(weight)
        return a if bias is None else a + self.spread(bias)

    def relu(self, z: Array) -> Array:
        return self.xp.where(z <= 0, self.xp.zeros_like(z), z)  # not max(z, 0): NaN is neither

    def masked(self, dy: Array, xhat: Array, weight: Maybe, bias: Maybe, y: Maybe) -> Array:
        """dy behind the activation. The sign is y's as rounded: a z that underflowed to 0 was cut off."""
        g = self.up(dy)
        if not self.p.relu:
            return g
        z = self.down(self.affine(xhat, weight, bias)) if y is None else y
        return self.xp.where(z <= 0, self.xp.zeros_like(g), g)


def _device(x: Array) -> Any:
    import array_api_compat

    return array_api_compat.device(x)

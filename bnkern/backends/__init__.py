"""The backends: one module per way of computing, each with the functions of `Backend`.

What a porter must know beyond the signatures:

* Which kinds of array a backend is asked about stands in `bnkern._kinds.KINDS`, in which order in `_dispatch.BACKENDS`.
  Nothing here imports a framework to look: arrays come from modules that are loaded, in sys.modules.
* Arguments are validated (`bnkern._check`): kinds, devices, shapes and dtypes agree, axis is in range, `out`
  can be written and is exactly dy, x, y or residual, or apart from them. Strides, alignment and byte order
  are arbitrary.
* `p` is the Problem: shape, axis, channels, count per channel, size, dtype name, eps, relu.
* mean, var, weight, bias are 1-D of length p.channels, as the user gave them; weight and bias may be None.
* An array without elements goes to `generic` alone: others never see one.
* "relu" in words: y = 0 where z <= 0, else z, so that NaN stays; backward, dy passes where not z <= 0, with z
  = y if y is given, else z computed from x again (without residual), rounded as the forward rounded it.
* Nothing of the user's is written until no error can come any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bnkern._types import Array

if TYPE_CHECKING:
    from bnkern._check import Problem

Pair = tuple[Array, Array]
Maybe = Array | None


class Backend(Protocol):
    """What a module in this package has to offer."""

    @property
    def __name__(self) -> str: ...

    def accepts(self, x: Array) -> str | None:
        """None to take arrays of x's type, else the reason why not."""

    def stats(self, p: Problem, x: Array) -> Pair:
        """Mean and population variance per channel, float64."""

    def train(
        self, p: Problem, x: Array, weight: Maybe, bias: Maybe, residual: Maybe, out: Maybe
    ) -> tuple[Array, Array, Array]:
        """(y, mean, var), bit for bit what `stats` and then `inference` give."""

    def inference(
        self, p: Problem, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, residual: Maybe,
        out: Maybe,
    ) -> Array:  # fmt: skip
        """y = relu(weight * (x - mean) / sqrt(var + eps) + bias + residual); out itself where given."""

    def reduce(
        self, p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe
    ) -> Pair:
        """(sum_dy, sum_dy_xhat) per channel, float64, of dy as it is behind the activation."""

    def input_grad(
        self, p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
        sums: Pair | None, count: int, out: Maybe, want_dx: bool, want_dresidual: bool,
    ) -> tuple[Maybe, Maybe]:  # fmt: skip
        """(dx, dresidual); `sums` are the whole batch's, of `count` values per channel, None when frozen."""

    def backward(
        self, p: Problem, dy: Array, x: Array, mean: Array, var: Array, weight: Maybe, bias: Maybe, y: Maybe,
        frozen: bool, count: int, needs: frozenset[str], out: Maybe,
    ) -> tuple[Maybe, Maybe, Maybe, Maybe]:  # fmt: skip
        """(dx, sum_dy, sum_dy_xhat, dresidual), None for what `needs` leaves out.

        "bias" stands for sum_dy, "weight" for sum_dy_xhat.
        `needs` is not empty, and holds "residual" only with p.relu: without activation dresidual is dy.
        """

    def narrow(self, v: Array, dtype: Any) -> Array:
        """A sum of `reduce` or `backward` in the dtype of a parameter: rounded once, Inf where it is too large."""

    def update_running(self, running: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
        """running = (1 - momentum) * running + momentum * (value * scale) in place, in float64, rounded once."""

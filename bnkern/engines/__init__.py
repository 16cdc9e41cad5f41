"""The engines: one module or folder for each way of computing. What a porter must know:

* An engine has `run(call)`, which runs the passes of a `bnkern._call.Call` and returns (out, mean, var, sum_dy,
  sum_dy_xhat, dresidual), None for what no pass computes; `ema_update(running, value, momentum, scale)`, the running
  update in place; `cast(v, dtype)` of a vector, rounded once; and `missing()`, why it cannot work here, or None.
* `explain(x, axis, op, threads)` tells how it would go about a call; an engine may do without.
* Which arrays come to it stands in `kinds` of bnkern.arrays, what they are exported as in their adapter.
* Calls are checked (bnkern.checks): kinds, devices, shapes and dtypes agree, axis is in range, `out` can be written and
  is exactly dy, x, y or residual, or apart from them. Strides, alignment and byte order are arbitrary.
* An array without elements goes to `array_api` alone: others never see one.
* Backward, the activation's z is y if y is given, else computed again from x (without residual), and rounded to x's
  dtype as the forward pass stored it.
* dx is computed wherever an elementwise backward pass runs, and dropped above where it is not among `call.needs`.
* Nothing of the user's is written until no error can come any more.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from bnkern._call import Call, Results
from bnkern._dtypes import Array

ENGINES = ("cpu", "cuda", "chunks", "xla", "array_api")


class Engine(Protocol):
    """What a module in this package has to offer."""

    @property
    def __name__(self) -> str: ...

    def missing(self) -> str | None:
        """Why this engine cannot work in this process; None where it can."""

    def run(self, call: Call) -> Results:
        """Runs call.passes."""

    def cast(self, v: Array, dtype: Any) -> Array:
        """A vector in another dtype: rounded once, Inf where it is too large."""

    def ema_update(self, running: Array, value: Array, momentum: float, scale: float) -> None:
        """running = (1 - momentum) * running + momentum * (value * scale) in place, in float64, rounded once."""


def engine(name: str) -> Engine:
    """One of ENGINES, loaded when it is asked for."""
    return cast(Engine, import_module(f"bnkern.engines.{name}"))

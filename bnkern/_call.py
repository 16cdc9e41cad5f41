"""A call: what it is about (`Problem`), its named operands, and which passes run. What engines read.

Every public function on x makes a Call, has it checked, and hands it to the engine. An engine's `run(call)` returns
(out, mean, var, sum_dy, sum_dy_xhat, dresidual), None for what no pass of the call computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

from bnkern._dtypes import Array
from bnkern._native import cpu

# The passes, as the kernels number them; a call's are a sum of them.
STATS, REDUCE, NORMALISE, INPUT_GRAD = cpu.STATS, cpu.REDUCE, cpu.NORMALISE, cpu.INPUT_GRAD

Results: TypeAlias = tuple[Array | None, Array | None, Array | None, Array | None, Array | None, Array | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What a call is about, without its data: safe to make from lazy arrays, never changed."""

    shape: tuple[int, ...]
    axis: int  # of the channels, not negative
    channels: int
    count: int  # values per channel; 0 when x has no element at all
    size: int
    dtype: str  # of x and of all that has its shape: one of bnkern._dtypes.DTYPES
    eps: float
    activation: int  # the kernels' number
    parameter: float  # of the activation
    vector: tuple[int]  # the shape (channels,) of everything that is per channel

    def of_part(self, shape: tuple[int, ...]) -> Problem:
        """The same problem on a part of the array."""
        channels, size = shape[self.axis], prod(shape)
        count = size // channels if size else 0
        return replace(self, shape=shape, channels=channels, count=count, size=size, vector=(channels,))


class Operation(NamedTuple):
    """A kind of call, and how many arrays of x's size it cannot do without moving."""

    passes: int
    reads: int
    writes: int

    @property
    def least(self) -> int:
        return self.reads + self.writes

    @property
    def two_sweeps(self) -> int:
        """Arrays moved where everything is read twice: by the reduction, and by the elementwise pass."""
        both = self.passes & (STATS | REDUCE) and self.passes & (NORMALISE | INPUT_GRAD)
        return self.least + self.reads if both else self.least


OPERATIONS = {
    "train": Operation(STATS | NORMALISE, 1, 1),
    "inference": Operation(NORMALISE, 1, 1),
    "backward": Operation(REDUCE | INPUT_GRAD, 2, 1),
    "stats": Operation(STATS, 1, 0),
    "frozen": Operation(INPUT_GRAD, 1, 1),  # dx alone, with frozen statistics
}


class Call:
    """One call. Operands that it has not got are None; what is given is as the user gave it.

    `_native.cpu.run` reads these attributes by name. The class holds the defaults and has no `__init__`, so that making
    one costs little: `new_call` sets what every call has.
    """

    problem: Problem
    axis: int  # this and what follows are the problem's, for the kernels
    eps: float
    activation: int
    parameter: float
    count: int  # values per channel of the whole batch, where x is a part of it

    passes: int = 0
    x: Array = None
    dy: Array = None
    residual: Array = None
    y: Array = None  # the forward's result, in the backward pass
    out: Array = None
    mean: Array = None
    var: Array = None
    weight: Array = None
    bias: Array = None
    sum_dy: Array = None
    sum_dy_xhat: Array = None
    frozen: bool = False  # whether dx has no mean terms
    needs: frozenset[str] = frozenset()
    dresidual: bool = False  # whether the residual's gradient is an array of its own
    ghosts: tuple[slice, ...] | None = None  # the samples of each ghost batch

    def wants(self, needs: frozenset[str], frozen: bool) -> None:
        """Settles which passes of the backward call run."""
        self.needs = needs
        self.passes, self.frozen, self.dresidual = _backward_passes(needs, frozen, self.activation != 0)

    def operands(self) -> Iterator[tuple[str, Array]]:
        """Every array of the call by its name."""
        for name in OPERANDS:
            a = getattr(self, name)
            if a is not None:
                yield name, a

    def replaced(self, **changes: Any) -> Call:
        """The same call on other arrays."""
        other = Call()
        vars(other).update(vars(self))
        vars(other).update(changes)
        return other


def new_call(p: Problem, passes: int, x: Array) -> Call:
    """A call of `passes` on x, and on nothing else yet."""
    call = Call()
    call.problem = p
    call.passes = passes
    call.x = x
    call.axis = p.axis
    call.eps = p.eps
    call.activation = p.activation
    call.parameter = p.parameter
    call.count = p.count
    return call


@cache
def _backward_passes(needs: frozenset[str], frozen: bool, active: bool) -> tuple[int, bool, bool]:
    """The passes, whether dx goes without mean terms, whether dresidual is an array of its own. The rule: passes.h."""
    dresidual = "residual" in needs  # without activation it is dy itself
    sums = "weight" in needs or "bias" in needs
    passes, fixed = cpu.backward_passes("x" in needs, dresidual, sums, frozen, active)
    return passes, fixed, dresidual and active


OPERANDS = ("x", "dy", "residual", "y", "out", "mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat")
LIKE_X = OPERANDS[:5]

"""How a kernel call becomes a function that JAX can differentiate in reverse mode, as often as it likes.

    forward    training, inference and statistics, with their gradients
    gradients  what the backward calls compute; its own derivative is that of the formula in jax.numpy
    backward   single backward passes, for the plain functions in parts

A forward function calls itself to get what it keeps for the backward pass: then derivatives of derivatives find rules
at every level. What nobody differentiates with respect to is not computed (`symbolic_zeros`). Forward mode is refused
by JAX with a TypeError, for a kernel has no rule for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bnkern._call import Problem, new_call
from bnkern.engines.xla.passes import Spec, of_call, placed, placement

Rule = Callable[..., Any]


class Static(NamedTuple):
    """What of a call is known when it is traced; hashable. JAX hands it to every rule."""

    problem: Problem
    frozen: bool = False
    axis_name: Any = None  # of JAX, along which batches are one batch
    parts: int = 1  # how many
    manual: bool = False  # whether this is inside a shard_map
    correction: float = 1.0
    momentum: float = 0.0
    passes: int = 0  # in `backward_passes`
    whole: int = 0  # values per channel of the whole batch, in `backward_passes`
    needs: frozenset[str] = frozenset()
    path: str = ""  # of the forward pass; the backward pass may be traced where another was asked for
    out_dtypes: tuple[Any, Any] = ("float32", "float32")  # of dweight and dbias

    @property
    def total(self) -> int:
        """Values per channel of the whole batch."""
        return self.problem.count * self.parts


@jax.tree_util.register_static
class Wanted(frozenset[str]):
    """The operands that someone differentiates with respect to. Without leaves: it may be kept beside arrays."""


@jax.tree_util.register_static
class Operands(frozenset[tuple[str, Any]]):
    """The operands that there are, each with its placement, which its gradient must have too."""


def _operands(a: dict[str, Any]) -> Operands:
    return Operands((name, placement(value)) for name, value in a.items())


def wide() -> str:
    """The dtype of statistics as JAX arrays."""
    return "float64" if jax.config.jax_enable_x64 else "float32"


def spec_of(static: Static, passes: int, **more: Any) -> Spec:
    """The Spec of passes on x."""
    return of_call(new_call(static.problem, passes, None), path=static.path, **more)


def differentiable(primal: Rule, keep: Rule, pull: Rule) -> Rule:
    """primal(static, a) with the gradient pull(static, kept, wanted, ct), where kept = keep(static, a, found).

    JAX tells what is differentiated with respect to, except in a shard_map: there everything is.
    """
    asking, plain = (jax.custom_vjp(primal, nondiff_argnums=(0,)) for _ in range(2))

    def forward_asking(static: Static, marked: dict[str, Any]) -> tuple[Any, Any]:
        a = {name: m.value for name, m in marked.items()}
        found = asking(static, a)
        wanted = Wanted(name for name, m in marked.items() if m.perturbed)
        return found, (keep(static, a, found), wanted, _operands(a))

    def forward_plain(static: Static, a: dict[str, Any]) -> tuple[Any, Any]:
        found = plain(static, a)
        return found, (keep(static, a, found), Wanted(a), _operands(a))

    def backward(static: Static, kept: Any, ct: Any) -> tuple[dict[str, Any]]:
        values, wanted, operands = kept
        grads = pull(static, values, wanted, ct)
        found = {name: (grads.get(name), where) for name, where in operands}  # None is zero
        return ({name: None if g is None else placed(g, where) for name, (g, where) in found.items()},)

    asking.defvjp(forward_asking, backward, symbolic_zeros=True)
    plain.defvjp(forward_plain, backward)
    return lambda static, a: (plain if static.manual else asking)(static, a)

"""Single backward passes: what the plain functions ask for under jit, in one piece or in parts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from bnkern._call import INPUT_GRAD, REDUCE, Call, new_call
from bnkern.engines import array_api
from bnkern.engines.xla.passes import compute, of_call, on_every_device
from bnkern.engines.xla.rules import Static, Wanted, differentiable, wide


def _backward_passes(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """dx, dresidual and the two sums by name, as far as static.passes and static.needs go."""
    call = _call_of_passes(static)
    asked = {"dx": ("out", "")} if call.passes & INPUT_GRAD and "x" in call.needs else {}
    asked |= {"dresidual": ("dresidual", "")} if call.dresidual else {}
    asked |= {name: (name, wide()) for name in ("sum_dy", "sum_dy_xhat") if call.passes & REDUCE}
    spec = of_call(call, path=static.path, frozen=call.frozen, dresidual=call.dresidual)._replace(count=static.whole)
    return dict(zip(asked, compute(spec, a, [*asked.values()], static.problem.channels), strict=True))


def _call_of_passes(static: Static) -> Call:
    call = new_call(static.problem, 0, None)
    call.wants(static.needs, static.frozen)
    call.passes, call.count, call.frozen = static.passes, static.whole, static.frozen
    return call


def _pull_of_passes(static: Static, a: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    """By the formula in jax.numpy."""
    found, pull = jax.vjp(partial(_passes_by_formula, static), {name: on_every_device(v) for name, v in a.items()})
    (back,) = pull({name: on_every_device(_instantiated(ct[name], v)) for name, v in found.items()})
    return {name: v for name, v in back.items() if v.dtype != jax.dtypes.float0}


def _passes_by_formula(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    out, _, _, sum_dy, sum_dy_xhat, dresidual = array_api.run(_call_of_passes(static).replaced(**a))
    found = {"dx": out, "dresidual": dresidual}
    if static.passes & REDUCE:
        found |= {"sum_dy": sum_dy, "sum_dy_xhat": sum_dy_xhat}
    return {name: v for name, v in found.items() if v is not None}


def _instantiated(ct: Any, like: Any) -> Any:
    return jax.numpy.zeros_like(like) if isinstance(ct, SymbolicZero) else ct


backward_passes = differentiable(_backward_passes, lambda static, a, found: a, _pull_of_passes)

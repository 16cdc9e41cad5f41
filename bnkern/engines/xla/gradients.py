"""The gradients of training and inference: by the kernels, differentiable again by the formula in jax.numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from bnkern._call import INPUT_GRAD, REDUCE, STATS, Call, new_call
from bnkern.engines import array_api
from bnkern.engines.xla.passes import ADD, BITS, Spec, compute, of_call, on_every_device, placed, placement, varying
from bnkern.engines.xla.rules import Static, Wanted, wide


def gradients_of(static: Static, operands: dict[str, Any], wanted: Wanted, dy: Any) -> dict[str, Any]:
    """The gradients of x, weight, bias and residual that are wanted."""
    if isinstance(dy, SymbolicZero):
        return dict.fromkeys(wanted)
    needs = frozenset(wanted & {"x", "weight", "bias", "residual"})
    dtypes = [wide() if operands[name] is None else operands[name].dtype.name for name in ("weight", "bias")]
    static = static._replace(needs=needs, out_dtypes=tuple(dtypes))  # type: ignore[arg-type]
    given = {name: a for name, a in operands.items() if a is not None}
    return gradients(static, {"dy": dy, **given}) if needs else {}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gradients(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """Those that static.needs names. `a` has dy, x, mean, var, and where there are: weight, bias, y."""
    call = _backward_call(static)
    names = {"x": ("out", ""), "residual": ("dresidual", "")}
    names |= {"weight": ("sum_dy_xhat", static.out_dtypes[0]), "bias": ("sum_dy", static.out_dtypes[1])}
    wanted = sorted(static.needs) if call.dresidual else sorted(static.needs - {"residual"})
    found: dict[str, Any] = {}
    if static.axis_name is None or not call.passes & REDUCE:
        spec = of_call(call, path=static.path, frozen=call.frozen, dresidual=call.dresidual)
        if call.passes:
            found = dict(zip(wanted, compute(spec, a, [names[n] for n in wanted], call.problem.channels), strict=True))
    else:
        found = _gradients_of_part(static, call, a, [(n, names[n]) for n in wanted])
    if "residual" in static.needs and not call.dresidual:
        found["residual"] = a["dy"]
    return found


def _backward_call(static: Static) -> Call:
    call = new_call(static.problem, 0, None)
    call.wants(static.needs, static.frozen)
    return call


def _gradients_of_part(static: Static, call: Call, a: dict[str, Any], wanted: list[Any]) -> dict[str, Any]:
    """The gradients where the batch is spread along `axis_name`: dweight and dbias of this part, dx with all sums."""
    channels = call.problem.channels
    sums = [("sum_dy", BITS), ("sum_dy_xhat", BITS)]
    of_sums = [(n, asked) for n, asked in wanted if n in ("weight", "bias")]
    spec = of_call(call, path=static.path, frozen=call.frozen)._replace(passes=REDUCE)
    part = compute(spec, a, [*sums, *(asked for _, asked in of_sums)], channels)
    found = {n: v for (n, _), v in zip(of_sums, part[2:], strict=True)}
    like_x = [(n, asked) for n, asked in wanted if n in ("x", "residual")]
    if like_x:
        if not call.frozen:
            parts = [gathered(static, v) for v in part[:2]]
            names = "sum_dy", "sum_dy_xhat"
            whole = compute(Spec(kind=ADD, path=static.path), dict(zip(names, parts, strict=True)), sums, channels)
            a = a | dict(zip(names, whole, strict=True))
        spec = spec._replace(passes=INPUT_GRAD, count=static.total, dresidual=call.dresidual)
        arrays = compute(spec, a, [asked for _, asked in like_x], channels)
        found |= {n: v for (n, _), v in zip(like_x, arrays, strict=True)}
    return found


def _gradients_forward(static: Static, a: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    return gradients(static, a), a


def _gradients_backward(static: Static, a: dict[str, Any], ct: dict[str, Any]) -> tuple[dict[str, Any]]:
    """By the formula in jax.numpy, with the statistics as a function of x unless they are frozen."""
    exact = {name: v for name, v in a.items() if v.dtype == "uint32"}
    given = {name: on_every_device(v) for name, v in a.items() if name not in exact}
    _, pull = jax.vjp(partial(gradients_by_formula, static), given)
    (back,) = pull(jax.tree.map(on_every_device, ct))
    return ({name: placed(v, placement(a[name])) for name, v in back.items()} | dict.fromkeys(exact),)


def gradients_by_formula(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """`gradients` in jax.numpy."""
    call = _backward_call(static).replaced(**a)
    sum_dy: Any
    sum_dy_xhat: Any
    if "mean" not in a:
        call = call.replaced(**dict(zip(("mean", "var"), statistics_by_formula(static, a["x"]), strict=True)))
    if static.axis_name is not None and call.passes & REDUCE:
        _, _, _, sum_dy, sum_dy_xhat, _ = array_api.run(call.replaced(passes=REDUCE))
        whole = {"sum_dy": jax.lax.psum(sum_dy, static.axis_name), "count": static.total}
        whole["sum_dy_xhat"] = jax.lax.psum(sum_dy_xhat, static.axis_name)
        dx, _, _, _, _, dresidual = array_api.run(call.replaced(passes=INPUT_GRAD & call.passes, **whole))
    else:
        dx, _, _, sum_dy, sum_dy_xhat, dresidual = array_api.run(call)
    found = {"x": dx, "residual": a["dy"] if dresidual is None else dresidual}
    if call.passes & REDUCE:
        found |= {"weight": sum_dy_xhat.astype(static.out_dtypes[0]), "bias": sum_dy.astype(static.out_dtypes[1])}
    return {name: found[name] for name in static.needs}


def statistics_by_formula(static: Static, x: Any) -> tuple[Any, Any]:
    """Mean and variance of the whole batch in jax.numpy."""
    _, mean, var, _, _, _ = array_api.run(new_call(static.problem, STATS, x))
    if static.axis_name is None:
        return mean, var
    whole = jax.lax.pmean(mean, static.axis_name)
    return whole, jax.lax.pmean(var + (mean - whole) ** 2, static.axis_name)


gradients.defvjp(_gradients_forward, _gradients_backward)


def gathered(static: Static, v: Any) -> Any:
    """What every part of the batch has found, in the order of the parts; to shard_map it is the same everywhere."""
    names = static.axis_name if isinstance(static.axis_name, tuple) else (static.axis_name,)
    known = {"to": "invarying"} if varying(v).issuperset(names) else {}  # under vmap there is nothing to know
    try:
        return jax.lax.all_gather(v, static.axis_name, **known)
    except NameError as error:
        raise NotImplementedError(
            f"axis_name: expected jax.grad inside the function that jax.vmap maps over {static.axis_name!r}, got it "
            "around jax.vmap, where JAX hides the axis from a custom_vjp; jax.shard_map takes both"
        ) from error

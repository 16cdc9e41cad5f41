"""The derivatives: each kernel call as a function that JAX can differentiate in reverse mode, as often as it likes.

    train      y, statistics and running statistics; its gradient is `gradients`
    inference  y from given statistics; the same with frozen statistics
    gradients  of both. Their own derivative is that of the formula in jax.numpy, which recomputes what it needs

A forward function calls itself to get what it keeps for the backward pass: then derivatives of derivatives find rules
at every level. What nobody differentiates with respect to is not computed (`symbolic_zeros`). Forward mode is refused
by JAX with a TypeError, for a kernel has no rule for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.custom_derivatives import SymbolicZero

from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS, Call, Problem, new_call
from bnkern.engines import array_api
from bnkern.engines.xla.passes import ADD, BITS, MERGE, Spec, compute, of_call, varying


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
    out_dtypes: tuple[Any, Any] = ("float32", "float32")  # of dweight and dbias

    @property
    def count(self) -> int:
        """Values per channel of the whole batch."""
        return self.problem.count * self.parts


@jax.tree_util.register_static
class Wanted(frozenset[str]):
    """The operands that someone differentiates with respect to. Without leaves: it may be kept beside arrays."""


@jax.tree_util.register_static
class Names(frozenset[str]):
    """The operands that there are."""


def wide() -> str:
    """The dtype of statistics as JAX arrays."""
    return "float64" if jax.config.jax_enable_x64 else "float32"


def spec_of(static: Static, passes: int, **more: Any) -> Spec:
    return of_call(new_call(static.problem, passes, None), **more)


def differentiable(primal: Rule, keep: Rule, pull: Rule) -> Rule:
    """primal(static, a) with a gradient: `keep(static, a, found)` is what pull(static, kept, wanted, ct) computes it from.

    JAX tells what is differentiated with respect to, except in a shard_map: there everything is.
    """
    asking, plain = (jax.custom_vjp(primal, nondiff_argnums=(0,)) for _ in range(2))

    def forward_asking(static: Static, marked: dict[str, Any]) -> tuple[Any, Any]:
        a = {name: m.value for name, m in marked.items()}
        found = asking(static, a)
        wanted = Wanted(name for name, m in marked.items() if m.perturbed)
        return found, (keep(static, a, found), wanted, Names(a))

    def forward_plain(static: Static, a: dict[str, Any]) -> tuple[Any, Any]:
        found = plain(static, a)
        return found, (keep(static, a, found), Wanted(a), Names(a))

    def backward(static: Static, kept: Any, ct: Any) -> tuple[dict[str, Any]]:
        operands, wanted, names = kept
        grads = pull(static, operands, wanted, ct)
        return ({name: grads.get(name) for name in names},)  # None is zero

    asking.defvjp(forward_asking, backward, symbolic_zeros=True)
    plain.defvjp(forward_plain, backward)
    return lambda static, a: (plain if static.manual else asking)(static, a)


# --- training -------------------------------------------------------------------------------------


def _train(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """Everything a training call gives, by name; "mean bits" and "var bits" are the exact statistics.

    `a` has x, and where there are: weight, bias, residual, running_mean, running_var, momentum, num_batches.
    """
    updated = {name: a.get(name) for name in ("running_mean", "running_var", "momentum", "num_batches")}
    vectors = [("mean", BITS), ("var", BITS), ("mean", wide()), ("var", wide())]
    running = [(name, a[name].dtype.name) for name in ("running_mean", "running_var") if name in a]
    channels = static.problem.channels
    update = {"momentum": static.momentum, "correction": static.correction}
    same = {name: a.get(name) for name in ("x", "residual", "weight", "bias")}
    names = ["mean bits", "var bits", "mean", "var", *(name for name, _ in running)]
    if static.axis_name is None:
        spec = spec_of(static, STATS | NORMALISE, **update)
        found = compute(spec, same | updated, [("out", ""), *vectors, *running], channels)
        return dict(zip(["y", *names], found, strict=True))
    parts = compute(spec_of(static, STATS), {"x": a["x"]}, [("mean", BITS), ("var", BITS)], channels)
    spec = Spec(kind=MERGE, count=static.problem.count, **update)
    operands = dict(zip(("mean", "var"), (_gathered(static, v) for v in parts), strict=True))
    found = compute(spec, operands | updated, [*vectors, *running], channels)
    exact = {"mean": found[0], "var": found[1]}
    (y,) = compute(spec_of(static, NORMALISE), same | exact, [("out", "")], channels)
    return dict(zip(["y", *names], [y, *found], strict=True))


def _gathered(static: Static, v: Any) -> Any:
    """What every part of the batch has found, in the order of the parts; to shard_map it is the same everywhere."""
    names = static.axis_name if isinstance(static.axis_name, tuple) else (static.axis_name,)
    known = {"to": "invarying"} if varying(v).issuperset(names) else {}  # under vmap there is nothing to know
    try:
        return jax.lax.all_gather(v, static.axis_name, **known)
    except NameError as error:
        raise NotImplementedError(
            f"axis_name: expected jax.grad inside the function that jax.vmap maps over {static.axis_name!r}, got it around "
            "jax.vmap, where JAX hides the axis from a custom_vjp; jax.shard_map takes both"
        ) from error


def _kept_of_train(static: Static, a: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = {name: a.get(name) for name in ("x", "weight", "bias")}
    kept |= {name: found[f"{name} bits"] for name in ("mean", "var")}
    kept["y"] = found["y"] if "residual" in a and static.problem.activation else None
    return kept | {"seen mean": found["mean"]}


def _pull_of_train(static: Static, kept: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    mean = kept.pop("seen mean")
    grads = _gradients_of(static, kept, wanted, ct["y"])
    if "x" in wanted and static.axis_name is None and not static.manual:
        grads["x"] = _through_statistics(static, grads["x"], kept["x"], mean, ct["mean"], ct["var"])
    return grads


def _through_statistics(static: Static, dx: Any, x: Any, mean: Any, dmean: Any, dvar: Any) -> Any:
    """dx and what the mean and the variance that the caller saw add to it: dmean / n + dvar * 2 (x - mean) / n."""
    p = static.problem
    shape = [1] * len(p.shape)
    shape[p.axis] = p.channels
    more: Any = 0.0
    if not isinstance(dmean, SymbolicZero):
        more = more + (dmean / p.count).reshape(shape)
    if not isinstance(dvar, SymbolicZero):
        more = more + (x.astype(mean.dtype) - mean.reshape(shape)) * (2 * dvar / p.count).reshape(shape)
    if isinstance(more, float):
        return dx
    return (more if dx is None else dx.astype(mean.dtype) + more).astype(x.dtype)


train = differentiable(_train, _kept_of_train, _pull_of_train)


# --- inference ------------------------------------------------------------------------------------


def _inference(static: Static, a: dict[str, Any]) -> Any:
    """y. `a` has x, mean, var, and where there are: weight, bias, residual."""
    (y,) = compute(spec_of(static, NORMALISE), a, [("out", "")], static.problem.channels)
    return y


def _kept_of_inference(static: Static, a: dict[str, Any], y: Any) -> dict[str, Any]:
    kept = {name: a.get(name) for name in ("x", "mean", "var", "weight", "bias")}
    return kept | {"y": y if "residual" in a and static.problem.activation else None}


def _pull_of_inference(static: Static, kept: dict[str, Any], wanted: Wanted, dy: Any) -> dict[str, Any]:
    static = static._replace(frozen=True)
    mean, var = kept["mean"], kept["var"]
    sums = ({"bias"} if "mean" in wanted else set()) | ({"weight"} if "var" in wanted else set())
    grads = _gradients_of(static, kept, Wanted(wanted | sums), dy)
    if sums and not isinstance(dy, SymbolicZero):  # y = weight * (x - mean) / sqrt(var + eps) + bias
        weight = 1 if kept["weight"] is None else kept["weight"].astype(wide())
        invstd = jax.lax.rsqrt(var.astype(wide()) + static.problem.eps)
        if "mean" in wanted:
            grads["mean"] = (-weight * invstd * grads["bias"]).astype(mean.dtype)
        if "var" in wanted:
            grads["var"] = (-0.5 * weight * invstd**2 * grads["weight"]).astype(var.dtype)
    return grads


inference = differentiable(_inference, _kept_of_inference, _pull_of_inference)


# --- gradients ------------------------------------------------------------------------------------


def _gradients_of(static: Static, operands: dict[str, Any], wanted: Wanted, dy: Any) -> dict[str, Any]:
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
        spec = of_call(call, frozen=call.frozen, dresidual=call.dresidual)
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
    spec = of_call(call, frozen=call.frozen)._replace(passes=REDUCE)
    part = compute(spec, a, [*sums, *(asked for _, asked in of_sums)], channels)
    found = {n: v for (n, _), v in zip(of_sums, part[2:], strict=True)}
    like_x = [(n, asked) for n, asked in wanted if n in ("x", "residual")]
    if like_x:
        if not call.frozen:
            gathered = [_gathered(static, v) for v in part[:2]]
            whole = compute(Spec(kind=ADD), dict(zip(("sum_dy", "sum_dy_xhat"), gathered, strict=True)), sums, channels)
            a = a | dict(zip(("sum_dy", "sum_dy_xhat"), whole, strict=True))
        spec = spec._replace(passes=INPUT_GRAD, count=static.count, dresidual=call.dresidual)
        arrays = compute(spec, a, [asked for _, asked in like_x], channels)
        found |= {n: v for (n, _), v in zip(like_x, arrays, strict=True)}
    return found


def _gradients_forward(static: Static, a: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    return gradients(static, a), a


def _gradients_backward(static: Static, a: dict[str, Any], ct: dict[str, Any]) -> tuple[dict[str, Any]]:
    """By the formula in jax.numpy, with the statistics as a function of x unless they are frozen."""
    exact = {name: v for name, v in a.items() if v.dtype == "uint32"}
    given = {name: v for name, v in a.items() if name not in exact}
    _, pull = jax.vjp(partial(gradients_by_formula, static), given)
    (back,) = pull(ct)
    return (back | dict.fromkeys(exact),)


def gradients_by_formula(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """`gradients` in jax.numpy."""
    call = _backward_call(static).replaced(**a)
    if "mean" not in a:
        call = call.replaced(**dict(zip(("mean", "var"), statistics_by_formula(static, a["x"]), strict=True)))
    if static.axis_name is not None and call.passes & REDUCE:
        _, _, _, sum_dy, sum_dy_xhat, _ = array_api.run(call.replaced(passes=REDUCE))
        whole = {"sum_dy": jax.lax.psum(sum_dy, static.axis_name), "count": static.count}
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


# --- single passes --------------------------------------------------------------------------------


def _statistics(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """mean and var of x."""
    asked = [("mean", wide()), ("var", wide())]
    return dict(zip(("mean", "var"), compute(spec_of(static, STATS), a, asked, static.problem.channels), strict=True))


def _pull_of_statistics(static: Static, kept: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    return {"x": _through_statistics(static, None, kept["x"], kept["mean"], ct["mean"], ct["var"])}


statistics = differentiable(
    _statistics, lambda static, a, found: {"x": a["x"], "mean": found["mean"]}, _pull_of_statistics
)


def _backward_passes(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """dx, dresidual and the two sums by name, as far as static.passes and static.needs go."""
    call = _call_of_passes(static)
    asked = {"dx": ("out", "")} if call.passes & INPUT_GRAD and "x" in call.needs else {}
    asked |= {"dresidual": ("dresidual", "")} if call.dresidual else {}
    asked |= {name: (name, wide()) for name in ("sum_dy", "sum_dy_xhat") if call.passes & REDUCE}
    spec = of_call(call, frozen=call.frozen, dresidual=call.dresidual)._replace(count=static.whole)
    return dict(zip(asked, compute(spec, a, [*asked.values()], static.problem.channels), strict=True))


def _call_of_passes(static: Static) -> Call:
    call = new_call(static.problem, 0, None)
    call.wants(static.needs, static.frozen)
    call.passes, call.count, call.frozen = static.passes, static.whole, static.frozen
    return call


def _pull_of_passes(static: Static, a: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    """By the formula in jax.numpy."""
    found, pull = jax.vjp(partial(_passes_by_formula, static), a)
    (back,) = pull({name: _instantiated(ct[name], v) for name, v in found.items()})
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

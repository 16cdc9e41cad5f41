"""Training, inference and statistics, with the gradients of their results."""

from __future__ import annotations

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from bnkern._call import NORMALISE, STATS
from bnkern.engines.xla.gradients import gathered, gradients_of
from bnkern.engines.xla.passes import BITS, MERGE, Spec, compute
from bnkern.engines.xla.rules import Static, Wanted, differentiable, spec_of, wide


def _train(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """Everything a training call gives, by name; "mean bits" and "var bits" are the exact statistics.

    `a` has x, and where there are: weight, bias, residual, running_mean, running_var, momentum, num_batches.
    """
    updated = {name: a.get(name) for name in ("running_mean", "running_var", "momentum", "num_batches")}
    vectors = [("mean", BITS), ("var", BITS), ("mean", wide()), ("var", wide())]
    running = [(name, a[name].dtype.name) for name in ("running_mean", "running_var") if name in a]
    channels = static.problem.channels
    update: dict[str, Any] = {"momentum": static.momentum, "correction": static.correction}
    same = {name: a.get(name) for name in ("x", "residual", "weight", "bias")}
    names = ["mean bits", "var bits", "mean", "var", *(name for name, _ in running)]
    if static.axis_name is None:
        spec = spec_of(static, STATS | NORMALISE, **update)
        found = compute(spec, same | updated, [("out", ""), *vectors, *running], channels)
        return dict(zip(["y", *names], found, strict=True))
    parts = compute(spec_of(static, STATS), {"x": a["x"]}, [("mean", BITS), ("var", BITS)], channels)
    spec = Spec(kind=MERGE, count=static.problem.count, path=static.path)._replace(**update)
    operands = dict(zip(("mean", "var"), (gathered(static, v) for v in parts), strict=True))
    found = compute(spec, operands | updated, [*vectors, *running], channels)
    exact = {"mean": found[0], "var": found[1]}
    (y,) = compute(spec_of(static, NORMALISE), same | exact, [("out", "")], channels)
    return dict(zip(["y", *names], [y, *found], strict=True))


def _kept_of_train(static: Static, a: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = {name: a.get(name) for name in ("x", "weight", "bias")}
    kept |= {name: found[f"{name} bits"] for name in ("mean", "var")}
    kept["y"] = found["y"] if "residual" in a and static.problem.activation else None
    return kept | {"seen mean": found["mean"]}


def _pull_of_train(static: Static, kept: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    mean = kept.pop("seen mean")
    grads = gradients_of(static, kept, wanted, ct["y"])
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
    whole = jax.numpy.broadcast_to(more, p.shape) if dx is None else dx.astype(mean.dtype) + more
    return whole.astype(x.dtype)


train = differentiable(_train, _kept_of_train, _pull_of_train)


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
    grads = gradients_of(static, kept, Wanted(wanted | sums), dy)
    if sums and not isinstance(dy, SymbolicZero):  # y = weight * (x - mean) / sqrt(var + eps) + bias
        weight: Any = 1 if kept["weight"] is None else kept["weight"].astype(wide())
        invstd = jax.lax.rsqrt(var.astype(wide()) + static.problem.eps)
        if "mean" in wanted:
            grads["mean"] = (-weight * invstd * grads["bias"]).astype(mean.dtype)
        if "var" in wanted:
            grads["var"] = (-0.5 * weight * invstd**2 * grads["weight"]).astype(var.dtype)
    return grads


inference = differentiable(_inference, _kept_of_inference, _pull_of_inference)


def _statistics(static: Static, a: dict[str, Any]) -> dict[str, Any]:
    """mean and var of x."""
    asked = [("mean", wide()), ("var", wide())]
    return dict(zip(("mean", "var"), compute(spec_of(static, STATS), a, asked, static.problem.channels), strict=True))


def _pull_of_statistics(static: Static, kept: dict[str, Any], wanted: Wanted, ct: dict[str, Any]) -> dict[str, Any]:
    return {"x": _through_statistics(static, None, kept["x"], kept["mean"], ct["mean"], ct["var"])}


statistics = differentiable(
    _statistics, lambda static, a, found: {"x": a["x"], "mean": found["mean"]}, _pull_of_statistics
)

"""The path without kernels: jax.numpy, which JAX differentiates in every mode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bnkern._call import NORMALISE, Call
from bnkern.engines import array_api
from bnkern.engines.vectors import ema
from bnkern.engines.xla import gradients, rules


def inference(call: Call, given: dict[str, Any]) -> Any:
    """y."""
    return array_api.run(call.replaced(**given))[0]


def train(static: rules.Static, call: Call, given: dict[str, Any]) -> dict[str, Any]:
    """y, mean, var and the running statistics by name, as `rules.train`."""
    mean, var = gradients.statistics_by_formula(static, call.x)
    operands = {name: given[name] for name in ("weight", "bias", "residual")}
    y = array_api.run(call.replaced(passes=NORMALISE, mean=mean, var=var, **operands))[0]
    found = {"y": y, "mean": mean, "var": var}
    if given["running_mean"] is None or not static.total:
        return found | {name: given[name] for name in ("running_mean", "running_var")}
    factor = static.momentum
    if "num_batches" in given:
        factor = 1 / given["num_batches"]
    factor = given.get("momentum", factor)
    by = array_api.arithmetic(given["running_mean"])
    scales = {"mean": 1.0, "var": static.total / (static.total - static.correction)}
    for name, scale in scales.items():
        value = jax.lax.stop_gradient(found[name])
        found[f"running_{name}"] = ema(by, given[f"running_{name}"], jnp.asarray(value), factor, scale)
    return found

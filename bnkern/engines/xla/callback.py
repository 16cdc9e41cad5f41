"""The path through Python: XLA calls `on_numpy`, which calls the kernels as bnkern's functions do."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import numpy as np

from bnkern._call import REDUCE, STATS, Call
from bnkern._native import vectors
from bnkern._threads import get_num_threads, threads
from bnkern.engines import cpu
from bnkern.engines.vectors import NUMPY, ema, merge
from bnkern.engines.xla.passes import ADD, BITS, LIKE_X, MERGE, Spec, rank


def call(spec: Spec, shapes: list[Any], arrays: tuple[Any, ...]) -> list[Any]:
    return jax.pure_callback(partial(on_numpy, spec), shapes, *arrays, vmap_method="expand_dims")


def on_numpy(spec: Spec, *arrays: Any) -> list[np.ndarray]:
    """The results of a call on values; element after element where vmap put axes before the operands' own."""
    given = [np.asarray(a) for a in arrays]
    ranks = [rank(spec, name, a.dtype) for name, a in zip(spec.operands, given, strict=True)]
    mapped = np.broadcast_shapes(*(a.shape[: a.ndim - r] for a, r in zip(given, ranks, strict=True)))
    with threads(max(1, get_num_threads() // spec.share)):
        if not mapped:
            return _one(spec, dict(zip(spec.operands, given, strict=True)))
        places = (_at(place, given, ranks) for place in np.ndindex(mapped))
        each = [_one(spec, dict(zip(spec.operands, arrays, strict=True))) for arrays in places]
    stacked = (np.stack(parts) for parts in zip(*each, strict=True))
    return [a.reshape(*mapped, *a.shape[1:]) for a in stacked]


def _at(place: tuple[int, ...], given: list[np.ndarray], ranks: list[int]) -> list[np.ndarray]:
    """The operands of one mapped element; an axis of length 1 is none's own."""
    found = []
    for a, r in zip(given, ranks, strict=True):
        lead = a.shape[: a.ndim - r]
        found.append(a[tuple(i if n > 1 else 0 for i, n in zip(place, lead, strict=True))])
    return found


def _one(spec: Spec, a: dict[str, Any]) -> list[np.ndarray]:
    a = {name: _number(v) if v.dtype == np.uint32 and name not in LIKE_X else v for name, v in a.items()}
    known = {MERGE: _merged, ADD: _added}.get(spec.kind, _passes)(spec, a)
    if "running_mean" in a:
        factor, n = _factor(spec, a), spec.count * (len(a["mean"]) if spec.kind == MERGE else 1)
        for name, scale in (("mean", 1.0), ("var", n / (n - spec.correction))):
            known[f"running_{name}"] = ema(NUMPY, a[f"running_{name}"], known[name], factor, scale)
    return [_delivered(known[name], dtype) for name, dtype in spec.results]


def _passes(spec: Spec, a: dict[str, Any]) -> dict[str, Any]:
    c = Call()
    for name, value in a.items():
        setattr(c, name, value)
    for name in ("passes", "axis", "eps", "activation", "parameter", "frozen", "dresidual"):
        setattr(c, name, getattr(spec, name))
    c.count = int(a["count"]) if "count" in a else spec.count
    out, mean, var, sum_dy, sum_dy_xhat, dresidual = cpu.run(c)
    known = {"out": out, "dresidual": dresidual}
    known |= {"mean": mean, "var": var} if spec.passes & STATS else {}
    return known | ({"sum_dy": sum_dy, "sum_dy_xhat": sum_dy_xhat} if spec.passes & REDUCE else {})


def _merged(spec: Spec, a: dict[str, Any]) -> dict[str, Any]:
    mean, var, _ = merge(NUMPY, [(m, v, spec.count) for m, v in zip(a["mean"], a["var"], strict=True)])
    return {"mean": mean, "var": var}


def _added(spec: Spec, a: dict[str, Any]) -> dict[str, Any]:
    """Sums of parts, added in order."""
    with np.errstate(all="ignore"):
        return {name: np.add.accumulate(parts, axis=0)[-1] for name, parts in a.items()}


def _factor(spec: Spec, a: dict[str, Any]) -> float:
    """The weight of this batch in the running statistics. What is traced can be looked at only here."""
    if "num_batches" in a:
        number = float(a["num_batches"])
        if not (math.isfinite(number) and number >= 1):
            raise ValueError(f"num_batches: expected an integer >= 1, got {number:g}")
        return 1 / number
    factor = float(a.get("momentum", spec.momentum))
    if not math.isfinite(factor):
        raise ValueError(f"momentum: expected a finite number, got {factor:g}")
    return factor


def _number(bits: np.ndarray) -> np.ndarray:
    """float64 from pairs of uint32."""
    return np.ascontiguousarray(bits).view(np.float64)[..., 0]


def _delivered(a: np.ndarray, dtype: str) -> np.ndarray:
    if a.ndim != 1:
        return a
    if dtype == BITS:
        return np.ascontiguousarray(a, np.float64).view(np.uint32).reshape(-1, 2)
    return a if a.dtype.name == dtype else vectors.cast(a, jax.numpy.dtype(dtype))

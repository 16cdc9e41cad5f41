"""What is checked of a call when JAX traces it: before anything runs, and without a value."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from bnkern._call import Call
from bnkern._numbers import integer, real
from bnkern._words import describe
from bnkern.checks import operands
from bnkern.checks.parameters import correction_below


def as_jax(value: Any) -> Any:
    """NumPy arrays become JAX's, as they do in jax.numpy; everything else stays what it is."""
    return jax.numpy.asarray(value) if isinstance(value, np.ndarray) else value


def vectors(call: Call, names: tuple[str, ...], required: int, given: dict[str, Any]) -> None:
    """Arrays of shape (C,), and the residual; those beyond the first `required` may be None."""
    operands.vectors(call, names, required, *(given[name] for name in names))
    if given["residual"] is not None:
        operands.like_x(call, "residual", given["residual"])


def training(call: Call, parts: int, running_mean: Any, running_var: Any, correction: Any) -> float:
    """Returns the correction as a number."""
    p = call.problem
    if p.eps == 0.0:
        raise ValueError("eps: expected a number > 0 in training, where a variance may be 0, got 0")
    if p.count * parts == 1:
        raise ValueError(
            "x: expected more than one value per channel in training, where a single one has variance 0, "
            f"got shape {p.shape} with axis={p.axis}; give a larger batch, or use batch_norm_inference"
        )
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing}: expected an array (running_mean and running_var go together), got None")
    return correction_below(correction, p.count * parts)


def factor(momentum: Any, num_batches: Any) -> tuple[float, dict[str, Any]]:
    """The weight of this batch where it is known, and the operand that it comes from where it is an array."""
    if momentum is None:
        if num_batches is None:
            raise ValueError("num_batches: expected the number of batches so far with momentum=None, got None")
        if _is_scalar("num_batches", num_batches, ("i", "u")):
            return 0.0, {"num_batches": _plain(num_batches)}
        return 1 / integer("num_batches", num_batches, low=1), {}
    if num_batches is not None and not _is_scalar("num_batches", num_batches, ("i", "u")):
        integer("num_batches", num_batches, low=0)
    if _is_scalar("momentum", momentum, ("f",)):
        return 0.0, {"momentum": _plain(momentum)}
    return real("momentum", momentum), {}


def _is_scalar(name: str, value: Any, kinds: Collection[str]) -> bool:
    """Whether it is a JAX array; one that is not of shape () and of these kinds raises."""
    if not isinstance(value, jax.Array):
        return False
    kind = "f" if jax.numpy.issubdtype(value.dtype, jax.numpy.floating) else value.dtype.kind
    if value.shape != () or kind not in kinds:
        expected = "an integer" if "i" in kinds else "a real number"
        raise TypeError(f"{name}: expected {expected} or a JAX scalar of one, got {describe(value)}")
    return True


def _plain(value: Any) -> Any:
    """A JAX scalar in one of the four dtypes that the kernels are handed; unsigned ones end at the signed maximum."""
    floats = jax.numpy.issubdtype(value.dtype, jax.numpy.floating)
    dtype = np.dtype(f"{'float' if floats else 'int'}{64 if value.dtype.itemsize == 8 else 32}")
    if value.dtype.kind == "u" and value.dtype.itemsize == dtype.itemsize:
        value = jax.numpy.minimum(value, np.asarray(np.iinfo(dtype).max, value.dtype))
    return value.astype(dtype)

"""The options that are neither arrays nor of x: momentum and its kin, needs, frozen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bnkern._numbers import integer, real, traced
from bnkern._words import describe

NEEDS = frozenset(("x", "weight", "bias", "residual"))
USUAL = ("x", "weight", "bias")
USUAL_SET = frozenset(USUAL)


def momentum_factor(momentum: Any, num_batches: Any) -> float:
    """Weight of this batch in the running statistics; what JAX traces is taken as it is."""
    if traced(momentum):
        return momentum
    if momentum is None and traced(num_batches):
        return 1 / num_batches
    batches = None if num_batches is None else integer("num_batches", num_batches, low=0 if momentum is not None else 1)
    if momentum is not None:
        return real("momentum", momentum)
    if batches is None:
        raise ValueError("num_batches: expected the number of batches so far with momentum=None, got None")
    return 1 / batches


def correction_below(correction: Any, count: int) -> float:
    """The correction of the variance, below the count so that count - correction is positive."""
    number = real("correction", correction)
    if number < 0 or (not traced(count) and 0 < count <= number):
        raise ValueError(f"correction: expected a number >= 0 and below the count, {count}, got {number:g}")
    return number


def gradients(needs: Any) -> frozenset[str]:
    """The gradients wanted."""
    if isinstance(needs, (str, bytes)) or not isinstance(needs, Collection):
        raise TypeError(f"needs: expected a collection like ('x', 'weight', 'bias'), got {describe(needs)}")
    for entry in needs:
        if not isinstance(entry, str) or entry not in NEEDS:
            raise ValueError(f"needs: expected entries among {sorted(NEEDS)}, got {describe(entry)}")
    return frozenset(needs)


def switch(name: str, value: Any) -> bool:
    """True or False, of Python or NumPy."""
    if type(value) is not bool and not isinstance(value, np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)

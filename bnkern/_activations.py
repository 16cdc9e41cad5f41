"""The activations that a call may fuse, one entry each: name, number in the kernels, parameter, and the rule in words.

In all of them NaN stays NaN. Backward, z is the value that the forward pass applied the activation to, rounded to x's
dtype; where y is given instead, it stands for z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from bnkern._dtypes import Array
from bnkern._numbers import real
from bnkern._words import describe

LEAST, MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # of float32's normal numbers

# What users may write; with a parameter: tuple[Literal["name"], float].
ActivationSpec: TypeAlias = Literal["relu", "relu6"] | tuple[Literal["leaky_relu"], float] | None


class Activation(NamedTuple):
    """One activation."""

    name: str
    number: int  # BN_RELU and so on: the place in BN_ACTIVATIONS of src/formulas.h
    parameter: Callable[[Any], float] | None  # checks the user's parameter; None: the activation has none
    forward: Callable[[Any, Array, float], Array]  # (namespace, z, parameter) -> y
    backward: Callable[[Any, Array, Array, float], Array]  # (namespace, z, dy, parameter) -> dz
    special: Mapping[float, int] = MappingProxyType({})  # parameters that make it another activation, by its number


def _slope(value: Any) -> float:
    """Not negative: a negative slope would hide from y on which side of 0 z was. Not lost in the kernels' float32."""
    slope = real("activation: slope", value)
    if slope != 0 and not LEAST <= slope <= MOST:
        expected = f"0, or a number from {LEAST:.3g} to {MOST:.3g}"
        raise ValueError(f"activation: expected a slope of {expected}, got {describe(value)}")
    return slope


ACTIVATIONS = (
    Activation(
        "relu", 1, None,
        forward=lambda xp, z, _: xp.where(z <= 0, xp.zeros_like(z), z),  # not max(z, 0): NaN is neither
        backward=lambda xp, z, dy, _: xp.where(z <= 0, xp.zeros_like(dy), dy),
    ),
    Activation(
        "relu6", 2, None,
        forward=lambda xp, z, _: xp.where(z <= 0, xp.zeros_like(z), xp.where(z >= 6, xp.zeros_like(z) + 6, z)),
        backward=lambda xp, z, dy, _: xp.where((z <= 0) | (z >= 6), xp.zeros_like(dy), dy),
    ),
    Activation(
        "leaky_relu", 3, _slope,
        forward=lambda xp, z, slope: xp.where(z <= 0, slope * z, z),
        backward=lambda xp, z, dy, slope: xp.where(z <= 0, slope * dy, dy),
        special={0.0: 1},  # to the bit: 0 * -inf is no number, and 0 * -1 is -0
    ),
)  # fmt: skip

NONE = 0  # the kernels' number of no activation
BY_NAME = {entry.name: entry for entry in ACTIVATIONS}
BY_NUMBER = {entry.number: entry for entry in ACTIVATIONS}


def parse(activation: Any) -> tuple[int, float]:
    """The number and the parameter of what a user wrote."""
    if activation is None:
        return NONE, 0.0
    name, values = (activation[0], activation[1:]) if type(activation) is tuple and activation else (activation, ())
    if not isinstance(name, str):
        raise TypeError(f"activation: expected {choices()}, got {describe(activation)}")
    entry = BY_NAME.get(name)
    if entry is None or len(values) != (entry.parameter is not None) or (type(activation) is tuple and not values):
        raise ValueError(f"activation: expected {choices()}, got {describe(activation)}")
    parameter = entry.parameter(values[0]) + 0.0 if entry.parameter else 0.0
    return entry.special.get(parameter, entry.number), parameter


def choices() -> str:
    """What `activation` may be, in words."""
    forms = [f"({e.name!r}, number)" if e.parameter else repr(e.name) for e in ACTIVATIONS]
    return " or ".join([", ".join(["None", *forms[:-1]]), forms[-1]])

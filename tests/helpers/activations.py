"""The activations as the tests know them: what a user writes, and the rule in plain NumPy. One line each."""

from typing import Any, NamedTuple

import numpy as np

from bnkern._activations import parse


class Rule(NamedTuple):
    written: Any  # as a user writes it
    value: Any  # (z, p) -> y
    factor: Any  # (z, p) -> what dy is multiplied by; 1 where z is NaN


RULES = {
    "relu": Rule("relu", lambda z, p: np.where(z <= 0, z.dtype.type(0), z), lambda z, p: np.where(z <= 0, 0, 1)),
    "relu6": Rule(
        "relu6",
        lambda z, p: np.where(z <= 0, z.dtype.type(0), np.where(z >= 6, z.dtype.type(6), z)),
        lambda z, p: np.where((z <= 0) | (z >= 6), 0, 1),
    ),
    "leaky_relu": Rule(
        ("leaky_relu", 0.3), lambda z, p: np.where(z <= 0, p * z, z), lambda z, p: np.where(z <= 0, p, 1)
    ),
}


def number_and_parameter(name):
    """As the kernels get them."""
    return parse(RULES[name].written)


def value(name, z):
    """y, in z's dtype."""
    with np.errstate(all="ignore"):
        return RULES[name].value(z, z.dtype.type(number_and_parameter(name)[1]))


def behind(name, z, dy):
    """dy behind the activation: in float32 at least, rounded to dy's dtype."""
    kind = np.float64 if dy.dtype == np.float64 else np.float32
    p = kind(number_and_parameter(name)[1])
    with np.errstate(all="ignore"):
        factor = RULES[name].factor(z.astype(kind), p).astype(kind)
        return np.where(factor == 0, kind(0), dy.astype(kind) * factor).astype(dy.dtype)

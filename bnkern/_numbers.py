"""What a number may be, in the user's own type: plain, of NumPy, or an array without dimensions where allowed."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np

from bnkern._words import describe

_FAR = 1e308


def real(name: str, value: Any) -> float:
    """A finite real number; text, booleans and arrays are none."""
    if (type(value) is float or type(value) is int) and -_FAR < value < _FAR:
        return float(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a real number, got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    return number


def integer(name: str, value: Any, low: int | None = None) -> int:
    """An integer of 64 bits, not below `low`; True and 2.0 are none."""
    try:
        if isinstance(value, (bool, np.bool_)) or hasattr(type(value), "__dask_graph__"):  # asking would compute it
            raise TypeError
        number = operator.index(value)
    except Exception as error:  # whatever an object of the user's raises
        raise TypeError(f"{name}: expected an integer, got {describe(value)}") from (
            None if isinstance(error, TypeError) else error
        )
    if abs(number) >= 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got one of {number.bit_length()}")
    if low is not None and number < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {number}")
    return number


def count(name: str, value: Any, also: str = "") -> int:
    """A number of values: an integer, or as it comes back from a reduction a float or an array without dimensions."""
    if type(value) is int and 0 <= value < 2**63:
        return value
    if traced(value):
        also = "; a traced count has no value: give it as a Python number, outside what jit traces"
    number = _element(value)
    if isinstance(number, (float, np.floating)):
        if not math.isfinite(number) or number != int(number):
            raise ValueError(f"{name}: expected a whole number, got {describe(value)}")
        number = int(number)
    try:
        return integer(name, number, low=0)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {describe(value)}{also}") from None


def traced(value: Any) -> bool:
    """Whether this is a number that JAX traces: it has no value yet, and is computed with as it is."""
    return type(value).__name__.endswith("Tracer")


def _element(value: Any) -> Any:
    """The number in an array without dimensions; anything else as it is."""
    try:
        if value.shape == () and hasattr(value, "item"):
            return value.item()
    except Exception:  # what has no value to show yet (Dask, a trace) fails as a number does
        pass
    return value

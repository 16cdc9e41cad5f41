"""The check of x, axis, eps and activation, which makes the `Problem` of a call.

A valid small call must pass in about a microsecond: hence the memo.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from bnkern._activations import parse
from bnkern._call import Call, Problem, new_call
from bnkern._dtypes import DTYPES, Array, dtype_name
from bnkern._numbers import integer, real
from bnkern.arrays import adopted, library_of

_ndarray = np.ndarray


def call_on(x: Array, passes: int, axis: Any, eps: Any = 0.0, activation: Any = None) -> Call:
    """A call on x, whose other operands are still to be named."""
    if type(activation) is tuple:
        activation = parse(activation)
    if type(x) is _ndarray:
        try:
            return new_call(_problem(x.shape, x.dtype, axis, eps, activation), passes, x)
        except TypeError:  # `problem` finds out why
            pass
    else:
        x = adopted("x", x)
    return new_call(_of_any(x, axis, eps, activation), passes, x)


def problem(x: Array, axis: Any = 1, eps: Any = 0.0, activation: Any = None) -> Problem:
    """The Problem of x, the same object for the same metadata."""
    return _of_any(x, axis, eps, parse(activation) if type(activation) is tuple else activation)


def _of_any(x: Array, axis: Any, eps: Any, activation: Any) -> Problem:
    if type(x) is not _ndarray:
        library_of("x", x)
    try:
        return _problem(x.shape, x.dtype, axis, eps, activation)
    except TypeError:  # from _problem itself, or because an argument has no hash: then _problem speaks now
        pass
    return _problem.__wrapped__(x.shape, x.dtype, axis, eps, activation)


@lru_cache(maxsize=1024, typed=True)
def _problem(shape: tuple[int, ...], dtype: Any, axis: Any, eps: Any, activation: Any) -> Problem:
    name = float_dtype("x", dtype)
    if len(shape) < 2:
        raise ValueError(f"x: expected at least 2 dimensions (batch and channels), got shape {tuple(shape)}")
    if not all(isinstance(n, int) for n in shape):
        raise ValueError(f"x: expected a known shape, got {tuple(shape)} (Dask: x.compute_chunk_sizes() finds it)")
    ndim, number = len(shape), integer("axis", axis)
    if not -ndim <= number < ndim:
        expected = f"an axis of x, {-ndim} to {ndim - 1} for shape {tuple(shape)}"
        raise ValueError(f"axis: expected {expected}, got {number}")
    eps = real("eps", eps) + 0.0  # -0.0 becomes 0.0, whose memo entry it shares
    if eps < 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    # What is a tuple has been parsed: to the memo ("leaky_relu", True) would be ("leaky_relu", 1.0).
    code, parameter = activation if type(activation) is tuple else parse(activation)
    channels, size = shape[number], prod(shape)
    count = size // channels if size else 0
    return Problem(tuple(shape), number % ndim, channels, count, size, name, eps, code, parameter, (channels,))


def float_dtype(argument: str, dtype: Any) -> str:
    """The name of one of DTYPES."""
    name = dtype_name(dtype)
    if name not in DTYPES:
        remedy = ""
        if name == "bool" or name.startswith(("int", "uint")):
            torch = str(dtype).startswith("torch.")
            remedy = f"; convert it: {argument}.float()" if torch else f"; convert it: {argument}.astype('float32')"
        raise TypeError(f"{argument}: expected dtype {' or '.join(DTYPES)}, got {dtype}{remedy}")
    return name

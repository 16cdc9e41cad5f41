"""Which backend a call goes to: the first that the array's kind names and that accepts it, remembered.

By type of x, or where that leaves open where x lives (PyTorch, JAX) by type and place. No framework is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import numpy as np

from bnkern._check import Problem
from bnkern._kinds import kind, kind_of, one_place, place
from bnkern._types import Array
from bnkern.backends import Backend, cpu

BACKENDS = ("cpu", "torch", "jax", "dask", "generic")  # modules of bnkern.backends in order of preference

_by_type: dict[type, Backend] = {np.ndarray: cpu}
_by_place: dict[tuple[type, str], Backend] = {}


def backend_of(x: Array) -> Backend:
    """The backend for arrays like x; TypeError with every backend's reason when none takes it."""
    found = _by_type.get(type(x))
    return _by_the_place(x) if found is None else found


def backend_for(p: Problem, x: Array) -> Backend:
    """The backend for a call. Without elements it is `generic`: no kernel ever meets an empty array."""
    return backend_of(x) if p.size else _backend("generic")


def _by_the_place(x: Array) -> Backend:
    kind("x", x)
    key: Any = type(x), place(x)
    found = _by_place.get(key)
    if found is None:
        found = _by_place[key] = _first_to_accept(x)
        if one_place(x):
            _by_type[type(x)] = found
    return found


def _first_to_accept(x: Array) -> Backend:
    reasons = []
    for name in BACKENDS:
        backend = _backend(name)
        reason = backend.accepts(x)
        if reason is None and name in kind_of(x).backends:
            return backend
        reasons.append(f"{name}: {reason or 'not for this kind of array'}")
    why = "; ".join(reasons)
    raise TypeError(f"x: expected an array that a backend takes, got {type(x).__name__} ({why})")


def _backend(name: str) -> Backend:
    return cast(Backend, import_module(f"bnkern.backends.{name}"))

"""Which backend a call goes to: the first that the array's kind names and that accepts it, remembered.

By type of x, or where that leaves open where x lives (PyTorch, JAX) by type and place. No framework is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import numpy as np

from bnkern._check import Problem
from bnkern._kinds import kind_of, one_place, place
from bnkern._types import Array
from bnkern.backends import Backend, cpu

BACKENDS = ("cpu", "torch", "jax", "cuda", "dask", "generic")  # modules of bnkern.backends in order of preference

_chosen: dict[Any, Backend] = {np.ndarray: cpu}  # by type, or by (type, place)


def backend_of(x: Array) -> Backend:
    """The backend for arrays like x, which a check has seen; TypeError with every reason when none takes it."""
    found = _chosen.get(type(x))
    return _by_place(x) if found is None else found


def backend_for(p: Problem, x: Array) -> Backend:
    """The backend for a call. Without elements it is `generic`: no kernel ever meets an empty array."""
    return backend_of(x) if p.size else _backend("generic")


def _by_place(x: Array) -> Backend:
    key = type(x), place(x)
    found = _chosen.get(key)
    if found is None:
        found = _chosen[type(x) if one_place(x) else key] = _first_to_accept(x)
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

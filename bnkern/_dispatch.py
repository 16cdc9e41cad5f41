"""Which backend a call goes to: the first in the list that accepts x, remembered per type of x."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import numpy as np

from bnkern._args import kind
from bnkern._check import Problem
from bnkern._types import Array
from bnkern.backends import Backend, cpu

BACKENDS = ("cpu", "cuda", "generic")  # modules of bnkern.backends in order of preference; a new one is a line here

_by_type: dict[type, Backend] = {np.ndarray: cpu}


def backend_of(x: Array) -> Backend:
    """The backend for arrays of x's type; TypeError with every backend's reason when none takes it."""
    found = _by_type.get(type(x))
    if found is None:
        found = _by_type[type(x)] = _first_to_accept(x)
    return found


def backend_for(p: Problem, x: Array) -> Backend:
    """The backend for a call. Without elements it is `generic`: no kernel ever meets an empty array."""
    return backend_of(x) if p.size else _backend("generic")


def _first_to_accept(x: Array) -> Backend:
    kind("x", x)
    reasons = []
    for name in BACKENDS:
        backend = _backend(name)
        reason = backend.accepts(x)
        if reason is None:
            return backend
        reasons.append(f"{name}: {reason}")
    why = "; ".join(reasons)
    raise TypeError(f"x: expected an array that a backend takes, got {type(x).__name__} ({why})")


def _backend(name: str) -> Backend:
    return cast(Backend, import_module(f"bnkern.backends.{name}"))

"""The kinds of array: which library one belongs to, where it lives, which backends may take it.

`KINDS` is the declaration. The dispatch asks its backends, the checks of `out` and running buffers read whether
it can be written, and the table in the README is printed from it. No library is imported here to look: a type
that a user holds comes from a module that is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bnkern import _plain
from bnkern._args import PER_CHANNEL, READY, describe, namespace
from bnkern._types import Array


class Kind(NamedTuple):
    """What holds for all arrays of one library in one kind of place."""

    title: str  # in the table
    backends: tuple[str, ...]  # modules of bnkern.backends that may take it, in the order of `_dispatch.BACKENDS`
    writable: bool = True  # whether `out` and running buffers of this kind can be written at all
    refused: str = ""  # why nothing can be done with it, and what to do instead
    dtypes: tuple[str, ...] = READY  # those that every library of this kind has


# (library, place) in the words of `kind` and `place`; where a place is not listed the row without one holds.
KINDS = {
    ("numpy", ""): Kind("NumPy", ("cpu",)),
    ("torch", "cpu"): Kind("PyTorch, CPU", ("torch",)),
    ("torch", "cuda"): Kind("PyTorch, CUDA (without CuPy: array API)", ("torch", "generic")),
    ("torch", ""): Kind("PyTorch, other devices", ("generic",)),
    ("torch", "meta"): Kind("PyTorch, meta", (), refused="a meta tensor has no values"),
    ("cupy", ""): Kind("CuPy", ("cuda",)),
    ("jax.numpy", "cpu"): Kind("JAX, CPU", ("jax",), writable=False),
    ("jax.numpy", "traced"): Kind("JAX under jit, grad, vmap", ("generic",), writable=False),
    ("jax.numpy", ""): Kind("JAX, sharded or on other devices", ("generic",), writable=False),
    ("dask.array", ""): Kind("Dask, of NumPy chunks", ("dask",), writable=False),
    ("sparse", ""): Kind("sparse", (), refused="batch normalisation makes it dense: densify it first"),
}
OTHER = Kind("others with an array API namespace", ("generic",), dtypes=PER_CHANNEL)

_REFUSED = frozenset(where for where, row in KINDS.items() if row.refused)
_libraries: dict[type, str] = {np.ndarray: "numpy"}


def kind(name: str, a: Any) -> str:
    """The library of an argument ("numpy", "torch", "jax.numpy" ...); TypeError unless its values can be computed with.

    The library is looked up once per type; what can differ between arrays of a type is looked at each time.
    """
    found = _libraries.get(type(a))
    if found is None:
        found = _libraries[type(a)] = _find_library(name, a)
    if found != "numpy":
        check = _plain.CHECKS.get(found)
        if check is not None:
            check(name, a)
        if (found, place(a)) in _REFUSED:
            why = kind_of(a).refused
            raise TypeError(f"{name}: expected an array with its values in memory, got {describe(a)} ({why})")
    return found


def _find_library(name: str, a: Any) -> str:
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name}: expected a plain array, got {type(a).__name__} (it has its own arithmetic)")
    if isinstance(a, np.ndarray):
        return "numpy"
    if _has_shape(a) and not isinstance(a, np.generic):
        import array_api_compat  # here, so that NumPy users never load it

        if array_api_compat.is_array_api_obj(a):
            return namespace(a).__name__.removeprefix("array_api_compat.")
    raise TypeError(f"{name}: expected an array (NumPy's or another array API library's), got {describe(a)}")


def _has_shape(a: Any) -> bool:
    try:
        return hasattr(a, "shape")
    except RuntimeError:  # PyTorch, asked for the shape of an uninitialised parameter
        return True


def place(a: Array) -> str:
    """Where an array of a known library lives, as far as KINDS makes a difference."""
    find = _PLACES.get(_libraries[type(a)])
    return find(a) if find else ""


def _jax_place(a: Any) -> str:
    if isinstance(a, sys.modules["jax"].core.Tracer):
        return "traced"
    devices = a.devices()
    return "cpu" if len(devices) == 1 and next(iter(devices)).platform == "cpu" else ""


_PLACES: dict[str, Callable[[Any], str]] = {"torch": lambda a: a.device.type, "jax.numpy": _jax_place}


def one_place(a: Array) -> bool:
    """Whether the type of an array says all that KINDS distinguishes."""
    return _libraries[type(a)] not in _PLACES


def kind_of(a: Array) -> Kind:
    """The row of an array that `kind` has seen."""
    library = _libraries[type(a)]
    return KINDS.get((library, place(a))) or KINDS.get((library, "")) or OTHER


def same_kind(name: str, a: Any, ref_name: str, ref: Array) -> None:
    """`a` must come from the library, and live on the device, of `ref`."""
    got = kind(name, a)
    expected = _libraries.get(type(ref)) or kind(ref_name, ref)
    if got != expected:
        raise TypeError(f"{name}: expected an array of {expected}, as {ref_name} is, got one of {got}")
    if got == "numpy":  # it has one device
        return
    here, there = _DEVICES.get(got, _device)(a, ref)
    if here != there:
        raise TypeError(f"{name}: expected an array on {there}, where {ref_name} is, got one on {here}")


def _device(a: Array, ref: Array) -> tuple[Any, Any]:
    import array_api_compat

    return array_api_compat.device(a), array_api_compat.device(ref)


def _jax_device(a: Any, ref: Any) -> tuple[Any, Any]:
    """JAX moves what no one has put anywhere. What differs is what it would refuse, or copy to another platform."""
    if "traced" in (place(a), place(ref)):
        return None, None
    here, there = a.devices(), ref.devices()
    if here != there and ((a.committed and ref.committed) or {d.platform for d in here} != {d.platform for d in there}):
        return ", ".join(sorted(map(str, here))), ", ".join(sorted(map(str, there)))
    return None, None


_DEVICES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "torch": lambda a, ref: (a.device, ref.device),
    "jax.numpy": _jax_device,
}


# --- the declaration in words ---------------------------------------------------------------------

# Functions that a backend computes, and those that the array API computes for every kind.
FUNCTIONS = {
    "batch_norm_inference, batch_norm_train, batch_norm_backward, batch_stats, backward_reduce, backward_apply": True,
    "merge_stats, update_running, fold_batch_norm": False,
}


def table() -> str:
    """KINDS as the table of the README: kind by function by dtype, computed by what or refused for what reason."""
    heads = ["array", *(f"`{names.replace(', ', '`, `')}`" for names in FUNCTIONS)]
    lines = [(*heads, "`out=`, running statistics in place", "dtypes of x"), ("---",) * (len(heads) + 2)]
    for row in (*KINDS.values(), OTHER):
        if row.refused:
            cells = [f"`TypeError`: {row.refused}", *("",) * (len(FUNCTIONS) + 1)]
        else:
            by = ", else ".join("array API" if name == "generic" else "kernels" for name in row.backends)
            written = "yes" if row.writable else "`ValueError`: see `update_running`"
            cells = [*(by if backend else "array API" for backend in FUNCTIONS.values()), written]
            cells.append(", ".join(row.dtypes))
        lines.append((row.title, *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

"""The array libraries: one file for all that is known of each, one line here.

No library is imported to look: a type that a user holds comes from a module that is loaded. The dispatch asks the rows
of `kinds()` for engines, the checks whether an array can be written, and the table in the README is printed from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._dtypes import Array, namespace
from bnkern._words import describe
from bnkern.arrays import dlpack
from bnkern.arrays._base import Kind, Library
from bnkern.arrays.cupy import CuPy
from bnkern.arrays.dask import Dask
from bnkern.arrays.jax import JAX
from bnkern.arrays.numpy import NumPy
from bnkern.arrays.other import Other, Sparse
from bnkern.arrays.torch import TORCH

_ndarray = np.ndarray

LIBRARIES: tuple[Library, ...] = (NumPy(), TORCH, CuPy(), JAX, Dask(), Sparse(), dlpack.DLPack())
OTHER = Other()

_by_name = {library.name: library for library in LIBRARIES}
_by_type: dict[type, Library] = {np.ndarray: LIBRARIES[0]}


def kinds() -> dict[tuple[str, str], Kind]:
    """The declaration: every row by (library, place); where a place is not listed the row without one holds."""
    return {(library.name, place): row for library in (*LIBRARIES, OTHER) for place, row in library.kinds.items()}


def adopted(name: str, a: Any) -> Any:
    """`a` itself; or the array of its memory, where no library stands behind it and DLPack shows where it lies.

    Called before anything else looks at an argument that the fast checks do not know.
    """
    if type(a) in _by_type or not dlpack.speaks(a) or _in_a_library(a):
        return a
    return dlpack.view(name, a)


def _in_a_library(a: Any) -> bool:
    if not _has_shape(a):
        return False
    import array_api_compat  # here, so that NumPy users never load it

    return array_api_compat.is_array_api_obj(a)


def library_of(name: str, a: Any) -> Library:
    """The library of an argument; TypeError unless its values can be computed with.

    The library is looked up once per type; what can differ between arrays of a type is looked at each time.
    """
    found = _by_type.get(type(a))
    if found is None:
        found = _by_type[type(a)] = _find(name, a)
    if type(a) is not _ndarray:
        found.refuse(name, a)
        if found.refuses and kind_of(a).refused:
            why = kind_of(a).refused
            raise TypeError(f"{name}: expected an array with its values in memory, got {describe(a)} ({why})")
    return found


def known_library(a: Array) -> Library:
    """The library of an array that `library_of` has seen, or one of the same type."""
    return _by_type.get(type(a)) or _find("array", a)


def kind_of(a: Array) -> Kind:
    """The row of an array that `library_of` has seen."""
    library = known_library(a)
    return library.kinds.get(library.place(a)) or library.kinds[""]


def same_library(name: str, a: Any, ref_name: str, ref: Array) -> None:
    """`a` must come from the library, and live on the device, of `ref`."""
    got = library_of(name, a)
    expected = _by_type.get(type(ref)) or library_of(ref_name, ref)
    if got is not expected:
        remedy = ""
        if got.name == "numpy" and expected.from_numpy:
            remedy = f"; give {expected.from_numpy}({name})"
        wanted = f"an array of {expected.name}, as {ref_name} is"
        raise TypeError(f"{name}: expected {wanted}, got one of {got.name}{remedy}")
    here, there = got.devices(a, ref)
    if here != there:
        raise TypeError(f"{name}: expected an array on {there}, where {ref_name} is, got one on {here}")


def _find(name: str, a: Any) -> Library:
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name}: expected a plain array, got {type(a).__name__} (it has its own arithmetic)")
    if isinstance(a, np.ndarray):
        return LIBRARIES[0]
    if not isinstance(a, (np.generic, type)) and _in_a_library(a):
        return _named(namespace(a).__name__.removeprefix("array_api_compat."))
    raise TypeError(f"{name}: expected an array (NumPy's or another array API library's), got {describe(a)}")


def _named(library: str) -> Library:
    if library not in _by_name:
        _by_name[library] = Other(library)
    return _by_name[library]


def _has_shape(a: Any) -> bool:
    try:
        return hasattr(a, "shape")
    except RuntimeError:  # PyTorch, asked for the shape of an uninitialised parameter
        return True


# --- the declaration in words ---------------------------------------------------------------------

# Functions that an engine computes, and those of numbers per channel, for which kernels are used in CPU memory.
FUNCTIONS = {
    "batch_norm_inference, batch_norm_train, batch_norm_backward, batch_norm_vjp, batch_stats, backward_reduce, "
    "backward_apply": True,
    "merge_stats, update_running, fold_batch_norm": False,
}


def table() -> str:
    """The rows as the table of the README: kind by function by dtype, computed by what or refused for what reason."""
    heads = ["array", *(f"`{names.replace(', ', '`, `')}`" for names in FUNCTIONS)]
    lines = [(*heads, "`out=`, running statistics in place", "dtypes of x"), ("---",) * (len(heads) + 2)]
    for row in kinds().values():
        if row.refused:
            cells = [f"`TypeError`: {row.refused}", *("",) * (len(FUNCTIONS) + 1)]
        else:
            by = ", else ".join("array API" if name == "array_api" else "kernels" for name in row.engines)
            of_vectors = "kernels" if row.engines[0] == "cpu" else "array API"
            written = "yes" if row.writable else "`ValueError`: see `update_running`"
            cells = [by, of_vectors, written, ", ".join(row.dtypes)]
        lines.append((row.title, *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

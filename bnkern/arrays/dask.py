"""Dask arrays of NumPy chunks: never computed here. Functions of chunks become graphs, one task for each chunk.

Any chunking will do, across the channels too: x is never rechunked, what goes with it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bnkern._call import Problem
from bnkern._dtypes import Array, native
from bnkern._native import vectors
from bnkern._words import describe
from bnkern.arrays._base import Kind, Library, not_writable, refusal


class Dask(Library):
    name = "dask.array"
    kinds = {"": Kind("Dask, of NumPy chunks", ("chunks",), writable=False)}  # noqa: RUF012
    from_numpy = "dask.array.from_array"

    def refuse(self, name: str, a: Array) -> None:
        if not isinstance(a._meta, np.ndarray) or isinstance(a._meta, (np.ma.MaskedArray, np.matrix)):
            kind = type(a._meta).__name__
            raise refusal(name, "a Dask array of NumPy chunks", f"one of {kind}", "convert it with map_blocks")

    def writable(self, name: str, a: Array, remedy: str) -> bool:
        not_writable(name, a, remedy)

    def memory(self, a: Array) -> np.ndarray | None:
        return None

    def widest(self, a: Array) -> Any:
        return np.float64

    def joined(self, pieces: list[Array], x: Array) -> Array:
        return _dask().concatenate(pieces, axis=0).rechunk(x.chunks)

    def cast(self, v: Array, dtype: Any) -> Array:
        return v.map_blocks(_cast, np.dtype(dtype), dtype=dtype, meta=np.empty((0,) * v.ndim, dtype))


def _cast(chunk: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """By the kernels' conversion, which rounds once."""
    return vectors.cast(chunk.reshape(-1), dtype).reshape(chunk.shape)


def over_chunks(
    function: Callable[..., Any], p: Problem, x: Array, *operands: Array | None, stacked: int = 0, **how: Any
) -> Array:
    """`function(*operands, **how)` of each chunk of x, to which the operands are rechunked; vectors to its channels.

    The results are like x, or with `stacked` that many in a new first axis, with one place per chunk.
    """
    axes = tuple(range(len(p.shape)))
    arguments: list[Any] = []
    for a in operands:
        if a is None:
            arguments += None, None
        elif a.ndim == 1:
            arguments += a.rechunk((x.chunks[p.axis],)), (p.axis,)
        else:
            arguments += a.rechunk(x.chunks), axes
    how |= {"problem": p, "align_arrays": False}
    if not stacked:
        how |= {"dtype": native(x.dtype), "meta": x._meta}
        return _dask().blockwise(function, axes, *arguments, **how)
    how |= {"new_axes": {-1: stacked}, "adjust_chunks": {a: _one for a in axes if a != p.axis}}
    how |= {"dtype": np.float64, "meta": np.empty((0,) * (len(axes) + 1))}
    return _dask().blockwise(function, (-1, *axes), *arguments, **how)


def combined(parts: Array, combine: Callable[..., Any], p: Problem) -> Array:
    """What `over_chunks` stacked, combined up Dask's tree of reductions: its order is that of the chunks alone."""
    return _dask().reduction(
        parts, _as_it_is, combine, axis=_others(p), dtype=np.float64, meta=np.empty((0, 0)), split_every=8
    )


def added(parts: Array, p: Problem) -> Array:
    """What `over_chunks` stacked, added up."""
    return parts.sum(axis=_others(p), split_every=8)


def reloads() -> bool:
    """Whether each pass makes its chunks anew, as `dask.config.set({"bnkern.reload": True})` asks."""
    option = sys.modules["dask"].config.get("bnkern.reload", False)
    if not isinstance(option, bool):  # "false", "off": text that is true to Python
        raise TypeError(f"dask.config, bnkern.reload: expected True or False, got {describe(option)}")
    return option


def again(a: Array, after: Array) -> Array:
    """The same array from tasks of its own, of which none begins before `after` is there. What is in memory stays.

    Dask renames the keys of blockwise layers alone: what lies below a layer of another kind (from_delayed, concatenate,
    stack, reshape, rechunk, a slice) has the tasks it had, or ones that wait for nothing: results are held as before.
    """
    return import_module("dask.graph_manipulation").bind(a, after, seed=f"bnkern-{a.name}-{after.name}")


def _one(length: int) -> int:
    return 1


def _as_it_is(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return parts


def _others(p: Problem) -> tuple[int, ...]:
    """The axes to reduce of what `over_chunks` stacked."""
    return tuple(a + 1 for a in range(len(p.shape)) if a != p.axis)


def _dask() -> Any:
    return sys.modules["dask.array"]

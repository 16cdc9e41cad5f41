"""What has to be known of an array library, with the answers that hold for any that follows the array API standard.

One file beside this one for each library that needs other answers; bnkern.arrays lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn

import numpy as np

from bnkern._dtypes import DTYPES, Array, device_of, namespace
from bnkern._words import describe


class Adapter(NamedTuple):
    """Zero copy: how arrays of one library reach an engine that knows another library's, and come back."""

    export: Callable[[Array], Array]  # the same memory, as the engine's kind of array
    wrap: Callable[[Array, Array], Array]  # (a result of the engine, an array like x) -> an array of x's kind
    mark_written: Callable[[Array], None]  # tells the library that an array of the user's was written
    takes: Callable[[Array], bool] | None = None  # whether an operand can be exported; None: all can
    around: Callable[[Array], AbstractContextManager[Any]] | None = None  # what the engine runs in, for a block


class Kind(NamedTuple):
    """What holds for all arrays of one library in one kind of place."""

    title: str  # in the README's table
    engines: tuple[str, ...]  # that may take it, in order of preference (names in bnkern.engines.ENGINES)
    adapter: Adapter | None = None  # to the first of the engines; None: it takes such arrays as they are
    writable: bool = True  # whether `out` and running buffers of this kind can be written at all
    refused: str = ""  # why nothing can be done with it, and what to do instead
    why: str = ""  # why no kernels compute it, where one would expect them to
    dtypes: tuple[str, ...] = DTYPES  # those that every library of this kind has


class Library:
    """One array library. `kinds` are its rows of the table, by place; "" stands for every other place."""

    name = ""  # of its namespace
    kinds: dict[str, Kind] = {}  # noqa: RUF012  # a declaration, never changed
    from_numpy = ""  # how a user brings a NumPy array here
    refuses = False  # whether a row is refused

    def place(self, a: Array) -> str:
        """Where an array lives, as far as `kinds` makes a difference."""
        return ""

    def refuse(self, name: str, a: Array) -> None:
        """Raises for an array whose values cannot be computed with, or not without losing what belongs to them."""

    def devices(self, a: Array, ref: Array) -> tuple[Any, Any]:
        """Where two arrays live; what is equal can be computed with together."""
        return device_of(a), device_of(ref)

    def writable(self, name: str, a: Array, remedy: str) -> bool:
        """Raises unless `a` can be written; True where each element surely has a place of its own."""
        import array_api_compat

        if not array_api_compat.is_writeable_array(a):
            not_writable(name, a, remedy)
        return False

    def memory(self, a: Array) -> np.ndarray | None:
        """A NumPy array with a's address, shape and strides, never read; None where it has none to show."""
        try:
            return np.from_dlpack(a)  # what has no address for NumPy raises: of these, identity alone is known
        except (AttributeError, BufferError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return None

    def apart(self, a: Array, b: Array) -> bool:
        """Whether a quick look shows that two arrays have no byte in common."""
        return False

    def widest(self, a: Array) -> Any:
        """The dtype for sums and statistics: float64 where library and device have it."""
        xp = namespace(a)
        found = xp.__array_namespace_info__().dtypes(device=device_of(a), kind="real floating")
        return found.get("float64", xp.float32)

    def ordered_like(self, a: Array, x: Array) -> Array:
        """`a` in x's memory order, where the library has orders."""
        return a

    def joined(self, pieces: list[Array], x: Array) -> Array:
        """Pieces of x's first axis as one array like x."""
        return namespace(x).concat(pieces, axis=0)

    def cast(self, v: Array, dtype: Any) -> Array:
        """A vector in another dtype, where no kernel does it."""
        return namespace(v).astype(v, dtype)


def not_writable(name: str, a: Array, remedy: str) -> NoReturn:
    raise ValueError(f"{name}: expected an array that can be written, got {describe(a)}; {remedy}")


class Described:
    """Memory described to NumPy by the array interface, which asks for nothing else."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, typestr: str) -> None:
        self.__array_interface__ = {
            "data": (address, True), "shape": shape, "strides": strides, "typestr": typestr, "version": 3,
        }  # fmt: skip


def refusal(name: str, expected: str, got: str, remedy: str) -> TypeError:
    return TypeError(f"{name}: expected {expected}, got {got}; {remedy}")

"""What bnkern does with an array: `explain`."""

from __future__ import annotations

from typing import Any, NamedTuple

from bnkern._call import OPERATIONS
from bnkern._dispatch import Route, route_of
from bnkern._dtypes import ITEMSIZE, Array
from bnkern._threads import get_num_threads
from bnkern._words import describe
from bnkern.arrays import adopted, kind_of
from bnkern.checks.problem import problem
from bnkern.engines import engine

WORDS = {
    "cpu": "CPU kernels",
    "cuda": "GPU kernels",
    "xla": "CPU kernels, in the program that JAX traces",
    "chunks": "CPU kernels, chunk by chunk when it is computed",
    "array_api": "its own library, by the array API standard",
}


class Explanation(NamedTuple):
    """How bnkern would go about a call; `str()` gives it in words. None where an engine does not tell."""

    op: str
    array: str  # type, shape, dtype and channel axis
    engine: str  # "cpu", "cuda", "chunks" or "array_api"
    how: str  # the same in words, and how the array gets there
    refused: tuple[str, ...]  # engines that would have come first, each with the reason why it does not
    layout: str | None
    isa: str | None
    threads: int | None
    strategy: str | None  # how often the arrays are gone through, and in what parts
    block: int | None  # elements of a channel that are summed together before float64 merges them
    stores: str | None  # whether results are written through the caches or past them
    bytes_moved: int | None
    bytes_least: int
    note: str | None

    def __str__(self) -> str:
        memory = f"at least {_bytes(self.bytes_least)} to move"
        if self.bytes_moved is not None:
            memory = f"{_bytes(self.bytes_moved)} moved, {memory}"
        rows = {
            "by": "; ".join((self.how, *(f"not {reason}" for reason in self.refused))),
            "layout": self.layout,
            "isa": self.isa,
            "threads": self.threads,
            "strategy": self.strategy,
            "block": None if self.block is None else f"{self.block} elements",
            "stores": self.stores,
            "memory": memory,
            "note": self.note,
        }
        lines = [f"{name:<9}{value}" for name, value in rows.items() if value is not None]
        return "\n".join([f"{self.op} of {self.array}", *(f"  {line}" for line in lines)])


def explain(x: Array, axis: int = 1, op: str = "train") -> Explanation:
    """Tell how a call on `x` would run: engine, layout path, instruction set, threads, bytes moved.

    Parameters
    ----------
    x : array
        The array that the call would be given.
    axis : int
        Its channel axis.
    op : {"train", "inference", "backward", "frozen", "stats"}
        What would be called; "frozen" is the backward call with frozen=True for dx alone, "stats" is `batch_stats`.

    Returns
    -------
    Explanation
        A named tuple; print it to read it.

    Raises
    ------
    TypeError, ValueError
        As the call itself would on this x and axis, and ValueError if `op` is none of the five.

    Examples
    --------
    >>> print(bnkern.explain(x, axis=-1, op="backward"))
    """
    if not isinstance(op, str) or op not in OPERATIONS:
        raise ValueError(f"op: expected one of {', '.join(map(repr, OPERATIONS))}, got {describe(op)}")
    x = adopted("x", x)
    p = problem(x, axis)
    least = OPERATIONS[op].least * p.size * ITEMSIZE[p.dtype]
    route = route_of(x)
    refused: tuple[str, ...] = route.refused
    if not p.size:
        refused = (*refused, f"{route.name}: x has no elements")
        route = Route("array_api", engine("array_api"), None, refused)
    # An engine may tell more about itself; array_api and chunks leave all of it to the array's library.
    told: dict[str, Any] = {}
    tell = getattr(route.engine, "explain", None)
    if tell is not None:
        exported = x if route.adapter is None else route.adapter.export(x)
        told = tell(exported, p.axis, op, get_num_threads())
    told["bytes_least"] = least
    rest: dict[str, Any] = {field: told.get(field) for field in Explanation._fields[5:]}
    why = kind_of(x).why
    return Explanation(
        op=op,
        array=f"{type(x).__name__} {p.shape} {p.dtype}, channel axis {p.axis}",
        engine=route.name,
        how=_how(x, route),
        refused=(*refused, f"kernels: {why}") if why else refused,
        **rest,
    )


def _how(x: Array, route: Route) -> str:
    where = kind_of(x).title.partition(",")[0]
    lent = "" if route.adapter is None else f"; memory of {where} read and written in place, no copy"
    return WORDS[route.name] + lent


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"

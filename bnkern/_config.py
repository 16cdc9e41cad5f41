"""What this copy of bnkern is (`show_config`, `bnkern info`), and what it does with an array (`explain`)."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bnkern._build as _build
from bnkern import _pool, _threads
from bnkern._args import DTYPES
from bnkern._check import problem
from bnkern._dispatch import BACKENDS, backend_for
from bnkern._native import kernels
from bnkern._types import Array

# Optional packages, each with the names under which it is distributed.
PACKAGES = {
    "rich": ("rich",),
    "matplotlib": ("matplotlib",),
    "scikit-learn": ("scikit-learn",),
    "threadpoolctl": ("threadpoolctl",),
    "torch": ("torch",),
    "jax": ("jax",),
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "dask": ("dask",),
    "ml_dtypes": ("ml_dtypes",),
    "mpi4py": ("mpi4py",),
}

# The arrays of x's size that a call cannot do without reading or writing: x, y; dy, x, dx.
LEAST = {"train": 2, "inference": 2, "backward": 3, "stats": 1, "frozen": 2}


def config() -> dict[str, Any]:
    """The facts about this installation, as nested dicts of texts, numbers and lists; None for nothing."""
    return {
        "bnkern": {"version": _build.VERSION, "location": str(Path(__file__).parent)},
        "build": {
            "compiler": _build.COMPILER,
            "flags": _build.C_FLAGS,
            "type": _build.BUILD_TYPE,
            "threading": "OpenMP" if kernels.has_openmp() else "serial, built without OpenMP",
            "levels": list(_build.LEVELS),
            "host": _build.HOST,
        },
        "python": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "array-api-compat": _version("array-api-compat"),
        },
        "instruction set": {
            "supported here": list(kernels.levels()),
            "chosen": kernels.level(),
            "BNKERN_CPU": os.environ.get("BNKERN_CPU"),
        },
        "threads": _thread_facts(),
        "memory pool": _pool_facts(),
        "OpenMP runtimes": _openmp_runtimes(),
        "optional packages": {name: _version(*names) for name, names in PACKAGES.items()},
    }


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print what this copy of bnkern is: build, instruction set, threads, packages (as `bnkern info` does).

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print the facts, or return them as nested dicts.

    Returns
    -------
    dict or None
        The facts for "dicts", None for "stdout".

    Raises
    ------
    ValueError
        If `mode` is neither.
    """
    if mode == "dicts":
        return config()
    if mode != "stdout":
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {mode!r}")
    print("\n".join(_lines(config())))
    return None


def _lines(facts: dict[str, dict[str, Any]]) -> Iterator[str]:
    width = max(len(name) for section in facts.values() for name in section)
    for title, section in facts.items():
        yield title
        for name, value in section.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"  {name:<{width}}  {'-' if text is None else text}"


def _thread_facts() -> dict[str, Any]:
    """The number of threads, what decides it, and all that might have."""
    known = dict(_threads.why())
    number = _threads.get_num_threads() if kernels.has_openmp() else 1
    if not kernels.has_openmp():
        reason = "a serial build"
    elif said := [name for name in ("threads", "threadpoolctl", "set_num_threads") if known.get(name) is not None]:
        reason = said[0]
    else:
        reason = " and ".join(source for source, limit in known.items() if limit == number)
    return {"number": number, "because of": reason or "the environment at first use", **known}


def _pool_facts() -> dict[str, Any]:
    pool = _pool.get_default_memory_pool()
    if not pool.is_enabled():
        return {"limit": f"switched off by {_pool.VARIABLE}"}
    return {"limit": pool.get_limit() or "none", "used bytes": pool.used_bytes(), "free bytes": pool.free_bytes()}


def _openmp_runtimes() -> dict[str, Any]:
    """The OpenMP libraries in this process, bnkern's own among them, by name."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {"loaded": "unknown: needs threadpoolctl, which is not installed"}
    found = [library for library in threadpool_info() if library["user_api"] == "openmp"]
    return {library["prefix"]: library["filepath"] for library in found} or {"loaded": "none"}


def _version(*distributions: str) -> str | None:
    """The version of the first distribution that is installed. Nothing is imported for it."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return None


# --- what happens to an array -----------------------------------------------------------------------------


class Explanation(NamedTuple):
    """How bnkern would go about a call; `str()` gives it in words. None where a backend does not tell."""

    op: str
    array: str  # kind, shape, dtype and channel axis
    backend: str
    refused: tuple[str, ...]  # the backends asked before, each with its reason
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
            "backend": "; ".join((self.backend, *(f"not {reason}" for reason in self.refused))),
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
    """Tell how a call on `x` would run: backend, layout path, instruction set, threads, bytes moved.

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
    if op not in LEAST:
        raise ValueError(f"op: expected one of {', '.join(map(repr, LEAST))}, got {op!r}")
    p = problem(x, axis)
    chosen = backend_for(p, x)
    name = chosen.__name__.rpartition(".")[2]
    refused = []
    for earlier in BACKENDS[: BACKENDS.index(name)]:
        reason = import_module(f"bnkern.backends.{earlier}").accepts(x)
        refused.append(f"{earlier}: {reason or 'x has no elements'}")
    # A backend may tell more about itself; the array-API one leaves all of it to the array's library.
    told = chosen.explain(x, p.axis, op) if hasattr(chosen, "explain") else {}
    return Explanation(
        op=op,
        array=f"{type(x).__name__} {p.shape} {p.dtype}, channel axis {p.axis}",
        backend=name,
        refused=tuple(refused),
        layout=told.get("layout"),
        isa=told.get("isa"),
        threads=told.get("threads"),
        strategy=told.get("strategy"),
        block=told.get("block"),
        stores=told.get("stores"),
        bytes_moved=told.get("bytes_moved"),
        bytes_least=told.get("bytes_least", LEAST[op] * p.size * DTYPES[p.dtype].itemsize),
        note=told.get("note"),
    )


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


# --- the command `bnkern info` ----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the facts as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(config(), indent=2))
    else:
        show_config()
    return 0

"""What this copy of bnkern is (`show_config`, `bnkern info`)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import bnkern._build as _build
from bnkern import _pool, _threads
from bnkern._native import kernels

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
}


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
    pools = [library for library in threadpool_info() if library["user_api"] == "openmp"]
    found = [library for library in pools if library["internal_api"] != "bnkern"]
    return {library["prefix"]: library["filepath"] for library in found} or {"loaded": "none"}


def _version(*distributions: str) -> str | None:
    """The version of the first distribution that is installed. Nothing is imported for it."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return None

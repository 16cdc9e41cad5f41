"""Traced JAX arrays on the CPU kernels: XLA calls them when the program runs, JAX differentiates and maps the calls.

choice: which path. passes: a kernel call inside a program. ffi, callback, formula: the three paths. rules: how a call
gets a derivative; forward, gradients, backward: the calls. This module is the engine of bnkern's plain functions under
jit (traced); bnkern.jax has functions of its own on the same rules.
Everything but this module and `choice` imports JAX, which is loaded where an array is traced.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bnkern._call import Call, Results
from bnkern._dtypes import Array
from bnkern.engines import array_api
from bnkern.engines.xla import choice

cast = array_api.cast
ema_update = array_api.ema_update  # never called: the check of running buffers has refused them


def missing() -> str | None:
    chosen = choice.chosen()
    return chosen.why if chosen.path == "array_api" else None


def run(call: Call) -> Results:
    """The passes as calls of the kernels that JAX can trace."""
    if choice.path() == "array_api":
        return array_api.run(call)
    results: Results = import_module("bnkern.engines.xla.traced").run(call)
    return results


def explain(x: Array, axis: int, op: str, threads: int) -> dict[str, Any]:
    """How a call on x would run, as far as a trace tells: for bnkern.explain."""
    where = {"ffi": "through XLA's FFI, without Python", "callback": "through jax.pure_callback"}
    chosen = choice.chosen()
    return {"note": f"called when the program runs, {where[chosen.path]}: {chosen.why}"}

"""Which path the kernels take into JAX programs: by what this machine has, `BNKERN_JAX`, or a block of `path_of`."""

from __future__ import annotations

import os
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

VARIABLE = "BNKERN_JAX"
PATHS = ("ffi", "callback", "array_api")

_here: ContextVar[str] = ContextVar("bnkern.jax.path", default="")


class Choice(NamedTuple):
    """A path and the reason for it."""

    path: str
    why: str


def path() -> str:
    """The path of what is traced now."""
    return _here.get() or chosen().path


@cache
def chosen() -> Choice:
    """The path of this process. The handler is compiled here if no earlier process left it."""
    said = os.environ.get(VARIABLE, "")
    if said and said not in PATHS:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(PATHS)}, got {said!r}")
    if said in ("callback", "array_api"):
        return Choice(said, f"{VARIABLE}={said}")
    import jax

    if (platform := jax.default_backend()) != "cpu":
        return Choice("array_api", f"there are kernels for the CPU, and JAX's default device is {platform}")
    from bnkern.engines.xla import ffi

    reason = ffi.missing()
    if reason is None:
        return Choice("ffi", f"{VARIABLE}=ffi" if said else "the handler could be built")
    if said:
        raise RuntimeError(f"{VARIABLE}=ffi: expected a handler that can be built, got: {reason}")
    return Choice("callback", f"no handler: {reason}")


class use_path:
    """Context manager: what is traced inside the block takes this path.

    JAX keeps what it compiled: a function that `jax.jit` has seen outside the block is not traced again inside it.

    Parameters
    ----------
    path : {"ffi", "callback", "array_api"}
        Kernels called by XLA, kernels called through Python, or no kernels: jax.numpy, which has forward mode.

    Raises
    ------
    ValueError
        If `path` is none of the three.
    RuntimeError
        If it is "ffi" and the handler cannot be built here; says why.
    """

    def __init__(self, path: str) -> None:
        if path not in PATHS:
            raise ValueError(f"path: expected one of {', '.join(PATHS)}, got {path!r}")
        if path == "ffi":
            from bnkern.engines.xla import ffi

            reason = ffi.missing()
            if reason is not None:
                raise RuntimeError(f"path: expected a handler that can be built for 'ffi', got: {reason}")
        self.path = path

    def __enter__(self) -> use_path:
        self._token = _here.set(self.path)
        return self

    def __exit__(self, *error: object) -> None:
        _here.reset(self._token)

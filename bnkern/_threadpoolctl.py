"""threadpoolctl, without importing it: `threadpool_limits` holds for bnkern, and `threadpool_info` shows it.

threadpoolctl finds thread pools by the names of loaded libraries, and lets others add a controller for theirs. Where it
is loaded already, ours is registered at once; else when it is: by a finder that steps in for that one module's import.
It is an "openmp" pool to threadpoolctl, as the parallel regions are OpenMP's, so `user_api="openmp"` limits it too.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "threadpoolctl"
SYMBOL = "bnkern_pool_patience"  # exported by src/pool.c: a library of the same file name is another's without it


def announce(get: Callable[[], int], limit: Callable[[int], None]) -> None:
    """Have threadpoolctl read the number of threads by `get` and set it by `limit`, now or once it is imported."""
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        _register(loaded, get, limit)
    else:
        sys.meta_path.insert(0, _Finder(get, limit))


class _Finder:
    """First of the finders; knows of one module, and leaves finding it to the others."""

    def __init__(self, get: Callable[[], int], limit: Callable[[int], None]) -> None:
        self._functions = get, limit

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._register_after(spec.loader)
                return spec
        return None

    def _register_after(self, loader: Any) -> None:
        """The loader runs the module; then, once, the controller is registered and the finder goes.

        The loader belongs to this spec, so its method can be replaced on the object; asking for the spec without
        importing (`importlib.util.find_spec`) therefore changes nothing.
        """

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's is there again
            loader.exec_module(module)
            if module.__name__ == NAME and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register(module, *self._functions)

        if hasattr(loader, "exec_module") and hasattr(loader, "__dict__"):
            loader.exec_module = exec_module


def _register(threadpoolctl: ModuleType, get: Callable[[], int], limit: Callable[[int], None]) -> None:
    """Nothing where threadpoolctl is older than 3.2 and knows no controllers of others, or is still being imported."""
    if not hasattr(threadpoolctl, "register"):
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc, name-defined]
        user_api = "openmp"
        internal_api = "bnkern"
        filename_prefixes = (_library(),)
        check_symbols = (SYMBOL,)

        def get_num_threads(self) -> int:
            return get()

        def set_num_threads(self, num_threads: int) -> None:
            limit(num_threads)

        def get_version(self) -> str:
            return importlib.import_module("bnkern._build").VERSION

    threadpoolctl.register(Controller)


def _library() -> str:
    """The file name of the library that holds the pool, as threadpoolctl reads it: links resolved, in small letters."""
    function = importlib.import_module("bnkern._native.memory").pool_state
    file = sys.modules[function.__module__].__file__ or ""
    return os.path.basename(os.path.realpath(file)).lower()

"""The "got ..." of errors, and the error for arguments given by position.

Errors read "argument: expected this, got that; remedy": TypeError for the wrong kind of thing, ValueError for the
wrong one.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def describe(value: Any) -> str:
    """What was handed in, in a few words. Nothing that its attributes or its repr do gets in the way."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    try:
        shape, dtype = tuple(value.shape), str(value.dtype)
    except Exception:
        pass
    else:
        return f"{name} of shape {shape} and dtype {dtype}"
    try:
        return f"{name} {reprlib.repr(value)}"
    except Exception:
        return f"{name} (which has no repr)"


def named_arguments(function: F) -> F:
    """Declares a public function whose `*misplaced` catches what was given by position and must be named.

    Its signature, for help() and IDEs, is that without `*misplaced`. An argument that has no default is None when it
    is left out, so that our checks can say what they expected.
    """
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    required = [p.name for p in kept if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    function.__kwdefaults__ = (function.__kwdefaults__ or {}) | dict.fromkeys(required)
    return function


def by_position(function: Callable[..., Any], misplaced: tuple[Any, ...]) -> TypeError:
    """The error for arguments beyond those that have a place."""
    parameters = inspect.signature(function).parameters.values()
    placed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    first = " and ".join([", ".join(placed[:-1]), placed[-1]] if len(placed) > 1 else placed)
    shown = ", ".join([*placed, *(f"{name}={name}" for name in named[:4])])
    more = ", ..." if len(named) > 4 else ""
    return TypeError(
        f"{function.__name__} takes {first} by position and everything else by keyword: "
        f"{function.__name__}({shown}{more}); got {len(misplaced)} more by position"
    )

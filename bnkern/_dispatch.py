"""Which engine a call goes to: the first that the kind of x names and that can work here, remembered.

By type of x and by where x lives. Arrays that the engine does not know are exported to it without a copy, and results
wrapped as the user's kind. No framework is imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bnkern._call import Call, Results
from bnkern._dtypes import Array
from bnkern.arrays import kind_of, known_library
from bnkern.arrays._base import Adapter
from bnkern.engines import Engine, cpu, engine, ghosts

_ndarray = np.ndarray


class Route(NamedTuple):
    """How arrays of one kind are computed with."""

    name: str
    engine: Engine
    adapter: Adapter | None  # to the engine; None: it takes them as they are
    refused: tuple[str, ...]  # engines that would have come first, each with the reason why it cannot work here


_routes: dict[tuple[type, str], Route] = {}


def run(call: Call) -> Results:
    """Runs a checked call where it belongs. No kernel ever meets an empty array."""
    if not call.problem.size:
        return engine("array_api").run(call)
    if type(call.x) is _ndarray:
        return cpu.run(call)
    route = route_of(call.x)
    return route.engine.run(call) if route.adapter is None else _exported(call, route.engine, route.adapter)


def run_ghosts(call: Call) -> Results:
    """The same for each of call.ghosts."""
    if not call.problem.size:
        return _run_by(engine("array_api"), call)
    route = route_of(call.x)
    return _run_by(route.engine, call) if route.adapter is None else _exported(call, route.engine, route.adapter)


def route_of(x: Array) -> Route:
    """The route of arrays like x, which a check has seen."""
    key = type(x), known_library(x).place(x)
    found = _routes.get(key)
    if found is None:
        found = _routes[key] = _find(x)
    return found


def _find(x: Array) -> Route:
    row = kind_of(x)
    refused: list[str] = []
    for name in row.engines:
        chosen = engine(name)
        reason = chosen.missing()
        if reason is None:
            return Route(name, chosen, None if refused else row.adapter, tuple(refused))
        refused.append(f"{name}: {reason}")
    raise TypeError(f"x: expected an array that an engine takes, got {type(x).__name__} ({'; '.join(refused)})")


def _exported(call: Call, chosen: Engine, adapter: Adapter) -> Results:
    """A call on memory of another library: exported, computed, wrapped. Where not all can be exported, `array_api`."""
    operands = dict(call.operands())
    if adapter.takes is not None and not all(map(adapter.takes, operands.values())):
        return _run_by(engine("array_api"), call)
    exported = call.replaced(**{name: adapter.export(a) for name, a in operands.items()})
    if adapter.around is None:
        results = _run_by(chosen, exported)
    else:
        with adapter.around(call.x):
            results = _run_by(chosen, exported)
    out, *rest = (None if result is None else adapter.wrap(result, call.x) for result in _but_out(results, call))
    if call.out is not None:
        adapter.mark_written(call.out)
        out = call.out
    return out, *rest  # type: ignore[return-value]


def _run_by(chosen: Engine, call: Call) -> Results:
    return chosen.run(call) if call.ghosts is None else ghosts.run(chosen.run, call)


def _but_out(results: Results, call: Call) -> tuple[Any, ...]:
    return (None, *results[1:]) if call.out is not None else results

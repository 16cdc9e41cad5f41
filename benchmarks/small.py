"""Small calls as a program makes them: with a new result, on arrays of their own and on slices of a buffer, one after
the other and after other work that has emptied the first cache. `python benchmarks/small.py`
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import rivals

from bnkern.cli.measure import Call, Case, kernel, make_case, settle

SHAPES = ((4, 8), (32, 64), (2, 32, 14, 14))
OPS = ("inference", "train", "backward")
OTHER_WORK = 512 << 10  # bytes
REPEATS = 20  # of a call that follows itself


def figures(names: list[str], seconds: float = 0.5) -> list[dict[str, Any]]:
    """A line for each shape and operation: {"warm": {who: seconds}, "after": {who: seconds}}."""
    found = []
    for shape in SHAPES:
        case = make_case(shape, "channels last" if len(shape) == 2 else "channels first")
        for op in OPS:
            calls = calls_of(case, op, names)
            found.append({"shape": shape, "op": op, "warm": warm(calls, seconds), "after": after(calls, seconds)})
    return found


def calls_of(case: Case, op: str, names: list[str]) -> dict[str, Call]:
    found = {"bnkern": kernel(case, op, fresh=True), "bnkern, slices": kernel(sliced(case), op, fresh=True)}
    if "torch" in names:
        found["torch"] = rivals.calls(case, op, ["torch"])["torch fresh"]
    return found


def sliced(case: Case) -> Case:
    """The same case in arrays that own no memory, as programs have that keep all in one buffer."""

    def view(a: np.ndarray) -> np.ndarray:
        buffer = np.zeros(a.nbytes + 64, np.uint8)
        start = -buffer.ctypes.data % 64
        part = buffer[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        part[...] = a
        return part

    names = ("x", "dy", "out", "weight", "bias", "mean", "var")
    return replace(case, **{name: view(getattr(case, name)) for name in names})


def warm(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Each call a few times on end, all in turn: medians."""
    return _in_turn(calls, seconds, lambda: None, REPEATS)


def after(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Each call once, after something else has gone through half a megabyte."""
    work = np.zeros(OTHER_WORK // 8)
    return _in_turn(calls, seconds, lambda: np.add(work, 1.0, out=work), 1)


def _in_turn(calls: dict[str, Call], seconds: float, between: Call, repeats: int) -> dict[str, float]:
    samples: dict[str, list[float]] = {who: [] for who in calls}
    settle()
    collecting = gc.isenabled()
    gc.disable()
    try:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or not samples[next(iter(calls))]:
            for who, call in calls.items():
                call()
                between()
                begin = time.perf_counter()
                for _ in range(repeats):
                    call()
                samples[who].append((time.perf_counter() - begin) / repeats)
    finally:
        if collecting:
            gc.enable()
    return {who: median(found) for who, found in samples.items()}


if __name__ == "__main__":
    for line in figures(["torch"]):
        print(line["shape"], line["op"])
        for how in ("warm", "after"):
            print("   ", how, {who: f"{1e6 * t:.2f} us" for who, t in line[how].items()})

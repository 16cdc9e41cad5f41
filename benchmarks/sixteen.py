"""bfloat16 and float16 against float32 on the same shapes, on each instruction set.

report.py starts `python benchmarks/sixteen.py` once for each level, with BNKERN_CPU set: the level is chosen at import.
The three types are timed in turn, so that a ratio is of one moment. Prints JSON, a line for each layer and layout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

import suite

from bnkern._native import kernels
from bnkern.cli.measure import kernel, make_case, measure

TYPES = ("float32", "bfloat16", "float16")


def figures(layouts: list[str], seconds: float, quick: bool) -> Iterator[dict[str, Any]]:
    wanted = [layer for layer in suite.selected() if not quick or layer.size < 1 << 21]
    for layer in wanted:
        for layout in layouts:
            if len(layer.shape) == 2 and layout == "nchw":
                continue
            cases = {dtype: make_case(layer.shape, suite.NAMES[layout], dtype) for dtype in TYPES}
            ops = {}
            for op in suite.MAIN_OPS:
                times = measure({dtype: kernel(case, op) for dtype, case in cases.items()}, seconds, rounds=3)
                ops[op] = {dtype: float(f"{1e6 * median(found):.4g}") for dtype, found in times.items()}
            yield {"isa": kernels.level(), "layer": layer.name, "shape": layer.shape, "layout": layout, "us": ops}


def on_level(level: str, layouts: list[str], seconds: float, quick: bool = False) -> list[dict[str, Any]]:
    """The figures of one instruction set, from a process of its own."""
    command = [sys.executable, __file__, json.dumps([layouts, seconds, quick])]
    there = os.environ | {"BNKERN_CPU": level}
    done = subprocess.run(command, env=there, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    for line in figures(*json.loads(sys.argv[1])):
        print(json.dumps(line), flush=True)

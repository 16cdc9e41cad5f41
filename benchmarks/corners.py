"""Where is bnkern slow? Time over limit for few and many channels, short and long rows, in and out of cache.

    python benchmarks/corners.py [--dtype bfloat16 --layout ...] [--picture FILE.png]

Under channels first a row is what lies side by side of one channel; under channels last it does not matter, so those
are a column of their own. report.py takes these figures too, and keeps them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from figures import number, table

from bnkern.cli.measure import LAYOUTS, OPS, Case, kernel, limit, make_case, measure

CHANNELS = (1, 3, 16, 64, 256, 1024, 4096)
ROWS = (1, 7, 49, 196, 784, 3136, 50176)
SIZES = (4 << 20, 64 << 20)  # bytes of x
MAIN_OPS = ("inference", "train", "backward")
LAST = "last"  # in place of a row's length
# Times the limit that no cell may exceed, at these bytes of x and above.
BARS = {"inference": (1.5, SIZES[1]), "train": (2.5, SIZES[0]), "backward": (2.5, SIZES[0])}


def figures(dtype: str = "float32", seconds: float = 0.25, note: Any = lambda text: None) -> list[dict[str, Any]]:
    """A line for each operation, size and number of channels: times the limit for each row, None where none fits."""
    found = []
    for size in SIZES:
        memory = make_case((size // np.dtype("float32").itemsize, 1), LAYOUTS[1], dtype)
        for channels in CHANNELS:
            note(f"corners: {size >> 20} MB, {channels} channels")
            lines: dict[str, list[float | None]] = {op: [] for op in MAIN_OPS}
            for row in (*ROWS, LAST):
                case = cut(memory, channels, row)
                for op in MAIN_OPS:
                    lines[op].append(None if case is None else ratio(case, op, seconds))
            keys = {"dtype": dtype, "MB": size >> 20, "channels": channels}
            found += [keys | {"op": op, "x limit": line} for op, line in lines.items()]
    return found


def cut(memory: Case, channels: int, row: int | str) -> Case | None:
    """A case of this shape in memory that exists; None where not even one sample fits."""
    length = 1 if row == LAST else int(row)
    samples = memory.x.size // (channels * length)
    if samples == 0:
        return None
    shape = (samples, channels) if row == LAST else (samples, channels, length)
    like = make_case((2, channels, 1))  # its parameters, of so many channels
    x, dy, out = (a.reshape(-1)[: prod(shape)].reshape(shape) for a in (memory.x, memory.dy, memory.out))
    axis = -1 if row == LAST else 1
    stats = like.stats._replace(count=prod(shape) // channels)
    return Case(x, dy, out, like.weight, like.bias, like.mean, like.var, stats, axis)


def ratio(case: Case, op: str, seconds: float) -> float:
    times = measure({"limit": limit(case, OPS[op]), "bnkern": kernel(case, op)}, seconds, rounds=3)
    return float(f"{median(times['bnkern']) / median(times['limit']):.4g}")


# --- what comes of it -------------------------------------------------------------------------------------


def tables(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A table for each operation and size."""
    header = ("channels", *(f"rows of {n}" for n in ROWS), "channels last")
    for size, op in sorted({(line["MB"], line["op"]) for line in lines}, key=lambda k: (k[0], MAIN_OPS.index(k[1]))):
        chosen = [line for line in lines if (line["MB"], line["op"]) == (size, op)]
        yield f"{op}, {size} MB:"
        yield table(header, [(str(line["channels"]), *map(number, line["x limit"])) for line in chosen])


def worst(lines: list[dict[str, Any]]) -> list[tuple[str, int, float, str]]:
    """(operation, MB, times the limit, where) of the slowest cell of each map."""
    found: dict[tuple[str, int], tuple[float, str]] = {}
    for line in lines:
        for row, value in zip((*ROWS, LAST), line["x limit"], strict=True):
            where = f"{line['channels']} channels, " + ("channels last" if row == LAST else f"rows of {row}")
            if value is not None:
                key = (line["op"], line["MB"])
                found[key] = max(found.get(key, (0.0, "")), (value, where))
    return [(*key, *found[key]) for key in sorted(found, key=lambda key: (key[1], MAIN_OPS.index(key[0])))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "float64"))
    parser.add_argument("--seconds", type=float, default=0.25, help="for each cell (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="where to draw the map")
    args = parser.parse_args()
    lines = figures(args.dtype, args.seconds, lambda text: print(text, flush=True))
    print("\n\n".join(tables(lines)))
    if args.picture:
        import charts

        charts.save(charts.corner_map(lines, f"{args.dtype}"), args.picture)


if __name__ == "__main__":
    main()

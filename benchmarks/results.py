"""Figures in memory, in raw files and in the summary that the repository keeps.

In memory a report is {"machine", "options", "cases", "small", "corners", "sixteen"}. A case is one operation on one
layer, with the seconds of all who took part. The raw file is that as JSON, each time with its quartiles; git ignores
it.
The summary has one number for each time, in microseconds, and a line for each layer in each layout. `load` reads both.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from bnkern._call import OPERATIONS
from bnkern._dtypes import ITEMSIZE
from bnkern.cli.measure import OPS

Report = dict[str, Any]
STATISTICS = ("median", "low", "least")
KEY = ("list", "layer", "shape", "times", "layout", "dtype")


def load(path: Path) -> Report:
    """A report from either file; `completed`."""
    report: Report = json.loads(path.read_text())
    if "layers" in report:
        report["cases"] = [case for line in report.pop("layers") for case in _cases(line)]
    return completed(report)


def kept(folder: Path) -> list[Report]:
    """The summaries in a folder, one for each machine; other programs may keep theirs beside them."""
    return [load(path) for path in sorted(folder.glob("*.json")) if "layers" in json.loads(path.read_text())]


def completed(report: Report) -> Report:
    """With what follows from shape, dtype and operation."""
    for case in report["cases"]:
        case["size"] = prod(case["shape"]) * ITEMSIZE[case["dtype"]]
        case["bytes"] = OPERATIONS[case["op"]].least * case["size"]
        case["limit"] = OPS[case["op"]]
    return report


def reduced(report: Report, statistic: str) -> Report:
    """One number of seconds for each who took part: "median", "low" (the lower quartile) or "least"."""

    def one(case: dict[str, Any]) -> dict[str, Any]:
        seconds = {who: t[statistic] if isinstance(t, dict) else t for who, t in case["seconds"].items()}
        return case | {"seconds": seconds}

    return report | {"cases": [one(case) for case in report["cases"]]}


def write(report: Report, path: Path) -> None:
    """The summary of a reduced report, one thing a line, so that a change of one is a change of one line."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for case in report["cases"]:
        key = tuple(str(case[name]) for name in KEY)
        line = lines.setdefault(key, {name: case[name] for name in KEY} | {"ops": {}})
        line["ops"][case["op"]] = {"how": case["how"], "us": {w: _us(t) for w, t in case["seconds"].items()}}
    parts = []
    for name in ("machine", "options"):
        rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in report[name].items()]
        parts.append(f'"{name}": {{\n' + ",\n".join(rows) + "\n }")
    for name, rows in (("layers", list(lines.values())), *((n, report[n]) for n in ("small", "corners", "sixteen"))):
        parts.append(f'"{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n " + ",\n ".join(parts) + "\n}\n")


def write_raw(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report) + "\n")


def _cases(line: dict[str, Any]) -> list[dict[str, Any]]:
    key = {name: line[name] for name in KEY}
    return [
        key | {"op": op, "how": found["how"], "seconds": {who: us * 1e-6 for who, us in found["us"].items()}}
        for op, found in line["ops"].items()
    ]


def _us(seconds: float) -> float:
    return float(f"{1e6 * seconds:.4g}")

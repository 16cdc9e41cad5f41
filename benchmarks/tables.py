"""The page of results: Markdown tables from a report with one number for each time."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import bars
import corners
import layers
from figures import (
    BIG,
    COMPARED,
    LIMIT,
    MEDIUM,
    VARIANTS,
    Case,
    extreme,
    geometric,
    mean,
    number,
    sized,
    table,
    time_of,
    values,
)

Groups = dict[tuple[str, str, str], list[Case]]


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    groups: Groups = {}
    for case in report["cases"]:
        groups.setdefault((case["dtype"], case["op"], case["layout"]), []).append(case)
    parts = [head(report["machine"], report["options"])]
    if groups:
        parts += ["## Bars", BARS, bars.text(report)]
        parts += ["## Lines where a rival is faster", LOST, bars.losses_text(report)]
        parts += ["## Against the limit", AGAINST, summary(groups)]
        parts += ["## Against other libraries", OTHERS, compared(groups)]
        parts += ["## Other ways to call it", WAYS, variants(groups), networks(report["cases"])]
    if report["corners"]:
        parts += ["## Slow corners", CORNERS, *corners.tables(report["corners"])]
    if report["sixteen"]:
        parts += ["## 16 bit over float32", SIXTEEN, sixteen(report["sixteen"])]
    if report["small"]:
        parts += ["## Small calls", SMALL, small(report["small"])]
    for (dtype, op, layout), cases in groups.items():
        parts += [f"## {op}, {layout}, {dtype}", lines_of(cases)]
    return "\n\n".join(part for part in parts if part)


BARS = """\
The bars of `bars.py`, float32, for the layers of `shapes.txt`, for shapes drawn at random in this run and for those
without a round number. Rivals write to memory that exists; oneDNN has the best of its layouts and versions for each
line."""
LOST = """\
bnkern writes to `out=`; every dtype and size that was measured, worst first. oneDNN is called from C, prepared
beforehand; below 1 MB bnkern's way through Python counts."""
AGAINST = """\
Times the limit: all threads copying the same bytes with non-temporal stores, for backward and frozen a
triad (dx = x + dy). Geometric means, over layers by the size of x. frozen is dx alone from frozen
statistics: it moves two thirds of the triad's bytes. stats reads half of what a copy moves."""
OTHERS = """\
How many times as long the others take. torch writes to memory that exists; torch fresh is called as its users do, as
are JAX and NumPy, and stands against bnkern with a new result. Geometric means over layers of 16 MB or more, in
brackets over those of 1 to 16 MB."""
WAYS = """\
As multiples of the plain call's time, for layers of 16 MB or more; a residual (with ReLU) in times of its own
read; one thread beside all of them, for bnkern and for the limit."""
CORNERS = """\
Times the limit, float32, by channels (downwards) and by how many values of a channel lie side by side."""
SIXTEEN = """\
Time over float32's of the same shape, all three in turn; each instruction set in a process of its own."""
SMALL = """\
With new results, microseconds. slices: arrays that own no memory. torch is `torch.nn.functional.batch_norm` without
autograd, for backward its kernel. warm: the call follows itself; after: half a megabyte of other work comes between."""


def head(machine: dict[str, Any], options: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    lines = [
        f"# bnkern {machine['bnkern']} ({machine['commit']}) on {machine['processor']}, {machine['date']}",
        f"Threads: {machine['threads']}, {machine['isa']}, {machine['compiler']}, Python {machine['python']}, "
        f"{packages}. Calls interleaved, {options['statistic']} of each."
        + (f" Shapes drawn with seed {options['seed']}." if "drawn" in options["parts"] else ""),
    ]
    for when in ("before", "after"):
        if machine.get(when):
            lines.append(f"State {when}: " + ", ".join(f"{k} {v}" for k, v in machine[when].items()) + ".")
    if machine.get("after"):
        lines.append("The two states differ where the host has moved the cores: then ratios across sections mislead.")
    return "\n\n".join(lines)


def summary(groups: Groups) -> str:
    header = ("dtype, op, layout", "16 MB or more", "worst of them", "1 to 16 MB", "worst of them", "smaller")
    rows = []
    for key, cases in groups.items():
        big, medium = sized(cases, BIG), sized(cases, MEDIUM, BIG)
        means = [number(mean(part, LIMIT)) for part in (big, medium, sized(cases, 0, MEDIUM))]
        rows.append((", ".join(key), means[0], worst(big), means[1], worst(medium), means[2]))
    return table(header, rows)


def worst(cases: list[Case]) -> str:
    found = extreme(cases, LIMIT)
    return "-" if found is None else f"{number(found[0])} {found[1]['layer']}"


def compared(groups: Groups) -> str:
    names = [n for n, ratio in COMPARED.items() if any(values(cases, ratio) for cases in groups.values())]
    rows = []
    for key, cases in groups.items():
        cells = []
        for name in names:
            big, medium = (mean(part, COMPARED[name]) for part in (sized(cases, BIG), sized(cases, MEDIUM, BIG)))
            cells.append("-" if big is None and medium is None else f"{number(big)} ({number(medium)})")
        rows.append((", ".join(key), *cells))
    return table(("dtype, op, layout", *names), rows) if names else "No other library took part."


def variants(groups: Groups) -> str:
    rows = []
    for key, cases in groups.items():
        found = [mean(sized(cases, BIG), ratio) for ratio in VARIANTS.values()]
        if any(value is not None for value in found):
            rows.append((", ".join(key), *map(number, found)))
    return table(("dtype, op, layout", *VARIANTS), rows) if rows else "Not measured."


def networks(cases: list[Case]) -> str:
    """What all batch normalisation of a network takes in a step: its layers, as often as it has them.

    Of networks that are listed with more than one layer, and were measured whole.
    """
    listed = Counter(layer.name.partition("/")[0] for layer in layers.load())
    sums: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        if case["list"] == "shapes" and "/" in case["layer"]:
            key = (case["layer"].partition("/")[0], case["dtype"], case["op"], case["layout"])
            sums.setdefault(key, []).append(case)
    whos = ("limit", "bnkern", "torch", "onednn")
    rows = []
    for key, members in sums.items():
        if len(members) == listed[key[0]] > 1 and key[2] in ("train", "backward", "inference"):
            totals = [[(time_of(case, who), case["times"]) for case in members] for who in whos]
            cells = [
                "-" if any(t is None for t, _ in part) else f"{1e3 * sum((t or 0) * n for t, n in part):.1f}"
                for part in totals
            ]
            rows.append((", ".join(key), *cells))
    if not rows:
        return ""
    return "All layers of a network, milliseconds:\n\n" + table(("network", *whos), rows)


def sixteen(lines: list[dict[str, Any]]) -> str:
    groups: dict[tuple[str, ...], list[tuple[float, dict[str, Any]]]] = {}
    for line in lines:
        for op, us in line["us"].items():
            for dtype in us:
                if dtype != "float32":
                    key = (line["isa"], dtype, op, line["layout"])
                    groups.setdefault(key, []).append((us[dtype] / us["float32"], line))
    rows = []
    for key, found in sorted(groups.items()):
        big = [ratio for ratio, line in found if 4 * prod(line["shape"]) >= BIG]
        small = [ratio for ratio, line in found if 4 * prod(line["shape"]) < BIG]
        value, line = max(found, key=lambda pair: pair[0])
        means = [number(geometric(part)) for part in (big, small)]
        rows.append((", ".join(key), *means, f"{number(value)} {line['layer']}"))
    return table(("level, dtype, op, layout", "16 MB or more in float32", "smaller", "worst"), rows)


def small(lines: list[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        for how in ("warm", "after"):
            times = line[how]
            whos = ("bnkern", "bnkern, slices", "torch")
            cells = [f"{1e6 * times[who]:.1f}" if who in times else "-" for who in whos]
            part = f"{times['bnkern'] / times['torch']:.2f}" if "torch" in times else "-"
            rows.append((f"({','.join(map(str, line['shape']))}) {line['op']}, {how}", *cells, part))
    return table(("call", "bnkern", "slices", "torch", "bnkern / torch"), rows)


def lines_of(cases: list[Case]) -> str:
    """One line for each layer: size, times, and who takes how long."""
    names = [name for name, ratio in COMPARED.items() if values(cases, ratio)]
    rows = []
    for case in cases:
        mine, limit = time_of(case, "bnkern"), time_of(case, "limit")
        assert mine is not None
        assert limit is not None
        rows.append(
            (
                case["layer"], "x".join(map(str, case["shape"])), f"{case['size'] / 1e6:.3g}",
                f"{1e3 * limit:.3g}", f"{1e3 * mine:.3g}", f"{case['bytes'] / mine / 1e9:.1f}",
                number(mine / limit), *(number(COMPARED[name](case)) for name in names), case["how"],
            )
        )  # fmt: skip
    header = ("layer", "shape", "MB", "limit ms", "bnkern ms", "GB/s", "x limit", *names, "how")
    return table(header, rows)

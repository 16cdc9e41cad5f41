"""What is asked of the CPU kernels, against what was measured; and every line where a rival is faster.

The bars are for float32 and two threads, on a machine whose copy is bound by its writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import corners
from figures import (
    BIG,
    LIMIT,
    MEDIUM,
    Case,
    ahead,
    chosen,
    extreme,
    geometric,
    mean,
    number,
    over,
    rival,
    sized,
    table,
    time_of,
)

LISTS = {"shapes": "shapes.txt", "drawn": "drawn", "odd": "odd_shapes.txt"}
WORDS = {"nchw": "channels first", "nhwc": "channels last"}
OPS = ("inference", "train", "backward")
# For each operation: channels first, channels last.
OVER_LIMIT = {"inference": (1.05, 1.08), "train": (1.3, 1.8), "backward": (1.4, 2.0)}
WORST = {"train": (1.6, 2.3), "backward": (1.6, 2.3)}
OVER_TORCH = {"inference": (1.3, 1.4), "train": (4.0, 2.2), "backward": (2.0, 2.0)}
OVER_ONEDNN = {"inference": (1.0, 1.0), "train": (1.5, 1.2), "backward": (1.5, 1.2)}
IN_CACHE_MEAN, IN_CACHE_WORST = 1.3, 0.95  # against the fastest rival, 1 to 16 MB
SIXTEEN = {"x86_v3": 0.65, "x86_v4": 0.6}  # of float32's time, 16 MB and more in float32
SMALL = {"inference": 0.35, "train": 0.5, "backward": 0.6}  # of torch's time
SLICES = 1e-6  # seconds that a call on slices may take longer


class Bar(NamedTuple):
    what: str
    aim: str
    measured: list[str]  # for each of LISTS, or one alone
    met: bool | None  # on every list; None where nothing was measured


def bars(report: dict[str, Any]) -> list[Bar]:
    found = [*_limits(report), *_worst(report), *_in_cache(report)]
    found += [*_against(report, "PyTorch", "torch", OVER_TORCH), *_against(report, "oneDNN", "onednn", OVER_ONEDNN)]
    return [*found, *_corners(report), *_sixteen(report), *_small(report)]


def text(report: dict[str, Any]) -> str:
    """The table."""
    words = {True: "yes", False: "**no**", None: "-"}
    rows = []
    for bar in bars(report):
        cells = bar.measured if len(bar.measured) == len(LISTS) else [*bar.measured, *([""] * (len(LISTS) - 1))]
        rows.append((bar.what, bar.aim, *cells, words[bar.met]))
    return table(("bar", "aim", *LISTS.values(), "met"), rows)


Aims = dict[str, tuple[float, float]]


def _each(report: dict[str, Any], aims: Aims) -> Iterator[tuple[str, float, list[list[Case]]]]:
    """(name, aim, the cases of each list) for each layout and operation, float32."""
    for k, (layout, words) in enumerate(WORDS.items()):
        for op, aim in aims.items():
            lists = [chosen(report, list=name, op=op, layout=layout, dtype="float32") for name in LISTS]
            yield f"{words}, {op}", aim[k], lists


def _bar(what: str, aim: float, found: list[float | None], most: bool, notes: list[str] | None = None) -> Bar:
    """`most`: the aim is an upper bound."""
    known = [value for value in found if value is not None]
    met = all(value <= aim if most else value >= aim for value in known) if known else None
    notes = notes or [""] * len(found)
    measured = [f"{number(value)}{note}" for value, note in zip(found, notes, strict=True)]
    return Bar(what, ("at most " if most else "at least ") + f"{aim:g}", measured, met)


def _limits(report: dict[str, Any]) -> Iterator[Bar]:
    for what, aim, lists in _each(report, OVER_LIMIT):
        yield _bar(f"{what}: times the limit, 16 MB and more", aim, [mean(sized(c, BIG), LIMIT) for c in lists], True)


def _worst(report: dict[str, Any]) -> Iterator[Bar]:
    for what, aim, lists in _each(report, WORST):
        lines = [extreme(sized(cases, BIG), LIMIT) for cases in lists]
        notes = ["" if line is None else f" {line[1]['layer']}" for line in lines]
        yield _bar(f"{what}: worst line", aim, [line and line[0] for line in lines], True, notes)


def _in_cache(report: dict[str, Any]) -> Iterator[Bar]:
    for what, aim, lists in _each(report, dict.fromkeys(OPS, (IN_CACHE_MEAN, IN_CACHE_MEAN))):
        lists = [sized(cases, MEDIUM, BIG) for cases in lists]
        yield _bar(f"{what}, 1 to 16 MB: fastest rival's time", aim, [mean(cases, ahead) for cases in lists], False)
        lines = [extreme(cases, ahead, min) for cases in lists]
        notes = ["" if line is None else f" {line[1]['layer']}" for line in lines]
        found = [line and line[0] for line in lines]
        yield _bar(f"{what}, 1 to 16 MB: worst line", IN_CACHE_WORST, found, False, notes)


def _against(report: dict[str, Any], name: str, who: str, aims: Aims) -> Iterator[Bar]:
    for what, aim, lists in _each(report, aims):
        means = [mean(sized(cases, BIG), over(who, "bnkern")) for cases in lists]
        yield _bar(f"{what}, 16 MB and more: {name}'s time", aim, means, False)


def _corners(report: dict[str, Any]) -> Iterator[Bar]:
    for op, size, value, where in corners.worst(report["corners"]):
        aim, least = corners.BARS[op]
        if size << 20 >= least:
            yield _bar(f"slowest corner, {op}, {size} MB: times the limit", aim, [value], True, [f" {where}"])


def _sixteen(report: dict[str, Any]) -> Iterator[Bar]:
    for isa, aim in SIXTEEN.items():
        for op in OPS:
            big, all_sizes = [], []
            for line in (line for line in report["sixteen"] if line["isa"] == isa):
                us = line["us"][op]
                others = [dtype for dtype in us if dtype != "float32"]
                ratios = [(us[dtype] / us["float32"], f" {dtype} {line['layer']}") for dtype in others]
                all_sizes += ratios
                big += ratios if 4 * prod(line["shape"]) >= BIG else []
            what = f"16 bit over float32, {isa}, {op}"
            if all_sizes:
                yield _bar(f"{what}: 16 MB and more", aim, [geometric([value for value, _ in big])], True)
                value, where = max(all_sizes)
                yield _bar(f"{what}: worst line of any size", 1.0, [value], True, [where])


def _small(report: dict[str, Any]) -> Iterator[Bar]:
    for op, aim in SMALL.items():
        for how, words in (("warm", "warm"), ("after", "after 512 KB of other work")):
            lines = [line for line in report["small"] if line["op"] == op]
            found = [(line[how]["bnkern"] / line[how]["torch"], line) for line in lines if "torch" in line[how]]
            if found:
                value, line = max(found, key=lambda pair: pair[0])
                where = f" ({','.join(map(str, line['shape']))})"
                yield _bar(f"small calls, {op}, {words}: of PyTorch's time, worst", aim, [value], True, [where])
    slices = [line["warm"]["bnkern, slices"] - line["warm"]["bnkern"] for line in report["small"]]
    if slices:
        longest = max(slices)
        yield Bar("small calls on slices: longer by", "at most 1 us", [f"{1e6 * longest:.2f} us"], longest <= SLICES)


# --- losses -----------------------------------------------------------------------------------------------


def losses(report: dict[str, Any]) -> list[Case]:
    """The cases where a rival that writes to memory it has is faster, worst first."""
    lost = [case for case in report["cases"] if (ratio := ahead(case)) is not None and ratio < 1]
    return sorted(lost, key=lambda case: ahead(case) or 0)


def tally(report: dict[str, Any]) -> tuple[list[Case], str]:
    """The losses on arrays of 1 MB and more, and how many there are on these and on smaller ones, in words."""
    lost, compared = losses(report), [case for case in report["cases"] if rival(case)]
    large, all_large = sized(lost, MEDIUM), sized(compared, MEDIUM)
    said = f"{len(large)} of {len(all_large)} lines of 1 MB and more"
    if len(compared) > len(all_large):
        said += f" ({len(lost) - len(large)} of {len(compared) - len(all_large)} smaller ones)"
    return large, said


def losses_text(report: dict[str, Any]) -> str:
    """All of them in a table; those below 1 MB too, where oneDNN saves what Python costs: it is called from C."""
    rows = []
    for case in losses(report):
        who, seconds = rival(case) or ("", 0.0)
        mine = time_of(case, "bnkern") or 0.0
        rows.append(
            (
                f"{case['op']}, {case['layout']}, {case['dtype']}", case["layer"], "x".join(map(str, case["shape"])),
                f"{case['size'] / 1e6:.3g}", f"{1e6 * mine:.4g}", number(LIMIT(case)), who, f"{seconds / mine:.2f}",
            )
        )  # fmt: skip
    header = ("call", "layer", "shape", "MB", "bnkern us", "x limit", "rival", "its time over bnkern's")
    said = f"A rival is faster on {tally(report)[1]}."
    return said + ("\n\n" + table(header, rows) if rows else "")

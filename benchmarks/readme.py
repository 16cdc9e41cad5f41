"""The speed section of the README from figures: `python benchmarks/report.py --again FILE --readme` prints it, and with
`--readme README.md` it takes the place of what stands there between its two marks.
"""

from __future__ import annotations

import textwrap
from math import prod
from pathlib import Path
from typing import Any

import layers
from bars import OPS, WORDS, tally
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

BEGIN, END = "<!-- benchmarks/report.py --readme -->\n\n", "\n\n<!-- end of --readme -->"
NAMES = {"inference": "inference", "train": "training", "backward": "backward"}


def section(report: dict[str, Any]) -> str:
    parts = [opening(report["machine"]), network(report), gains(report), worst(report), lost(report)]
    parts += [sixteen(report["sixteen"]), small(report["small"]), CLOSING]
    return "\n\n".join(wrapped(part) for part in parts if part)


def wrapped(part: str) -> str:
    """A paragraph of one line in lines of the README's length; tables stay."""
    return part if "\n" in part else textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False)


def paste(report: dict[str, Any], path: Path) -> None:
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path}: expected the marks {BEGIN.strip()} and {END.strip()}")
    path.write_text(before + begin + section(report) + end + after)


def opening(machine: dict[str, Any]) -> str:
    packages = machine["packages"]
    versions = [packages[build] for build in ("onednn", "onednn-gomp") if build in packages]
    rivals = f"PyTorch {packages.get('torch', '-').partition('+')[0]}, oneDNN {' and '.join(versions) or '-'}"
    state = machine.get("before") or {}
    latency = f", {state['one way ns']:.0f} ns from core to core" if state.get("one way ns") else ""
    return (
        "Batch normalisation is bound by memory, so the yardstick is the machine itself: the limit is a copy of x to y "
        "with non-temporal stores by the same threads, for backward a triad (dx = x + dy), in the same run. float32, "
        "`out=` given, the layers of `benchmarks/shapes.txt`, calls interleaved, means geometric. Measured on "
        f"{machine['threads']} threads of an {machine['processor']} ({machine['isa']}{latency}), {machine['date']}, "
        f"commit {machine['commit']}; {rivals}."
    )


def network(report: dict[str, Any], name: str = "resnet50") -> str:
    """What all batch normalisation of a network takes, as often as it has each layer; empty where one is missing."""
    listed = [layer.name for layer in layers.load() if layer.name.startswith(name + "/")]
    whos = {"limit": "limit", "bnkern": "bnkern", "PyTorch": "torch", "oneDNN": "onednn"}
    whos |= {"bnkern, new results": "bnkern fresh", "PyTorch, as called": "torch fresh"}
    rows = []
    for layout, words in WORDS.items():
        for what, ops in (("a training step", ("train", "backward")), ("inference", ("inference",))):
            cases = [
                case for op in ops for case in chosen(report, list="shapes", layout=layout, op=op, dtype="float32")
            ]
            cases = [case for case in cases if case["layer"] in listed]
            if len(cases) == len(listed) * len(ops):
                rows.append((f"{what}, {words}", *(milliseconds(cases, who) for who in whos.values())))
    if not rows:
        return ""
    said = "All batch normalisation of ResNet-50 at batch 32, without the rest of the network, milliseconds:"
    return said + "\n\n" + table(("", *whos), rows)


def milliseconds(cases: list[Case], who: str) -> str:
    found = [(time_of(case, who), case["times"]) for case in cases]
    return "-" if any(t is None for t, _ in found) else f"{1e3 * sum((t or 0.0) * n for t, n in found):.0f}"


def gains(report: dict[str, Any]) -> str:
    rows = []
    for layout, words in WORDS.items():
        for op in OPS:
            cases = chosen(report, list="shapes", layout=layout, op=op, dtype="float32")
            big, medium = sized(cases, BIG), sized(cases, MEDIUM, BIG)
            cells = [mean(big, LIMIT), mean(big, over("torch", "bnkern"))]
            cells += [mean(big, over("torch fresh", "bnkern fresh"))]
            cells += [mean(big, over("onednn", "bnkern")), mean(medium, ahead)]
            rows.append((f"{NAMES[op]}, {words}", *map(number, cells)))
    header = ("", "times the limit", "PyTorch takes, memory kept", "PyTorch takes, as called", "oneDNN takes")
    said = "Layers of 16 MB and more; how many times as long the others take, in the last column on 1 to 16 MB:"
    return said + "\n\n" + table((*header, "1 to 16 MB: the fastest of them takes"), rows)


def worst(report: dict[str, Any]) -> str:
    """The slowest lines, of the list and of shapes drawn at random."""
    found = []
    for layout, words in WORDS.items():
        for op in OPS:
            cases = [
                case
                for name in ("shapes", "drawn", "odd")
                for case in chosen(report, list=name, layout=layout, op=op, dtype="float32")
            ]
            line = extreme(sized(cases, BIG), LIMIT)
            if line:
                shape = ",".join(map(str, line[1]["shape"]))
                found.append(f"{NAMES[op]} {words} {number(line[0])} times the limit on ({shape})")
    if not found:
        return ""
    return "The worst lines of 16 MB and more, drawn and odd shapes among them: " + "; ".join(found) + "."


def lost(report: dict[str, Any]) -> str:
    if not any(rival(case) for case in report["cases"]):
        return ""
    lines, counted = tally(report)
    begin = f"A rival that keeps its memory is faster on {counted}, every dtype that was measured"
    if not lines:
        return begin + "."
    named = [
        f"{case['op']} {case['layout']} {case['dtype']} ({','.join(map(str, case['shape']))}) {ahead(case):.2f}"
        for case in lines[:5]
    ]
    return f"{begin}; the worst, with its time over bnkern's: {', '.join(named)}."


def sixteen(lines: list[dict[str, Any]]) -> str:
    words = []
    for isa in sorted({line["isa"] for line in lines}):
        for dtype in ("bfloat16", "float16"):
            ratios = [
                us[dtype] / us["float32"]
                for line in lines
                if line["isa"] == isa and 4 * prod(line["shape"]) >= BIG
                for us in line["us"].values()
            ]
            if ratios:
                words.append(f"{dtype} {number(geometric(ratios))} (worst {number(max(ratios))}) on {isa}")
    return f"16 bit over float32's time, 16 MB and more in float32: {', '.join(words)}." if words else ""


def small(lines: list[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        times = line["warm"]
        cells = [f"{1e6 * times[who]:.1f}" if who in times else "-" for who in ("bnkern", "torch")]
        late = line["after"]
        cells += [f"{1e6 * late[who]:.1f}" if who in late else "-" for who in ("bnkern", "torch")]
        rows.append((f"({','.join(map(str, line['shape']))}) {NAMES[line['op']]}", *cells))
    if not rows:
        return ""
    header = ("small calls, microseconds", "bnkern", "PyTorch", "bnkern, after other work", "PyTorch, after other work")
    return table(header, rows)


CLOSING = """\
![Times the limit, layer by layer, beside PyTorch and oneDNN](docs/bench-layers.png)

![Where the slow corners are: time over limit by channels and row length](docs/bench-corners.png)

Every line, the aims and which are missed: `benchmarks/results/`. `python benchmarks/report.py --standard` measures all
of it again in about ten minutes (`benchmarks/README.md` says how it is kept fair); `bnkern bench` is the short version
for your own machine and shape."""

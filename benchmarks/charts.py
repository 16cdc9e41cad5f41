"""Charts from the figures that report.py keeps: bars against the limit for each layer, and time over size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from tables import MEDIUM, time_of

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

INK, PALE = "#333333", "#8a8a8a"
COLOURS = {"bnkern": "#1f6f8b", "torch": "#c8553d", "onednn": "#d9a441", "limit": "#8a8a8a"}
LABELS = {"bnkern": "bnkern", "torch": "PyTorch, warm", "onednn": "oneDNN, best layout", "limit": "limit"}
TITLES = {"inference": "inference", "train": "training, forward", "backward": "backward"}
WORDS = {"nchw": "channels first", "nhwc": "channels last"}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def draw(report: dict[str, Any], folder: Path) -> Iterator[Path]:
    """All charts that the figures suffice for."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in report["cases"]:
        if case["op"] in TITLES and case["size"] >= MEDIUM:
            groups.setdefault((case["layout"], case["dtype"]), []).append(case)
    with mpl.rc_context(STYLE):
        for (layout, dtype), cases in groups.items():
            title = f"{WORDS[layout]}, {dtype}: {caption(report['machine'])}"
            yield save(layer_bars(cases, title), folder / f"bench-layers-{layout}-{dtype}.png")
        if report["sweep"]:
            yield save(time_over_size(report), folder / "bench-sizes.png")


def caption(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, threads: {machine['threads']}, {machine['date']}"


def save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def layer_bars(cases: list[dict[str, Any]], title: str) -> plt.Figure:
    """A panel for each operation, a group of bars for each layer: times the limit, on a logarithmic scale."""
    ops = [op for op in TITLES if any(case["op"] == op for case in cases)]
    sizes = {case["layer"]: case["size"] for case in cases}
    names = sorted(sizes, key=lambda name: -sizes[name])
    whos = [who for who in ("bnkern", "torch", "onednn") if any(time_of(case, who) for case in cases)]
    figure, panels = plt.subplots(
        1, len(ops), sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(3.2 + 3.2 * len(ops), 1.6 + 0.42 * len(names)),
    )  # fmt: skip
    height = 0.8 / len(whos)
    for panel, op in zip(panels[0], ops, strict=True):
        chosen = {case["layer"]: case for case in cases if case["op"] == op}
        for k, who in enumerate(whos):
            # Drawn from the limit, 1: shorter than the limit is to the left of it.
            found = [
                (row + (k - (len(whos) - 1) / 2) * height, seconds / limit)
                for row, name in enumerate(names)
                if name in chosen
                and (seconds := time_of(chosen[name], who))
                and (limit := time_of(chosen[name], "limit"))
            ]
            rows, ratios = zip(*found, strict=True) if found else ((), ())
            panel.barh(rows, [r - 1 for r in ratios], height, left=1, color=COLOURS[who], label=LABELS[who])
            if who == "bnkern":
                for row, ratio in found:
                    panel.annotate(
                        f"{ratio:.2f}", (max(1, ratio), row), xytext=(3, 0), textcoords="offset points",
                        va="center", fontsize=7, color=COLOURS[who],
                    )  # fmt: skip
        panel.set_xscale("log")
        panel.axvline(1, color=INK, linewidth=1)
        panel.set_title(TITLES[op])
        panel.set_xlabel("times the limit")
        panel.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4, 8, 16, 32]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(axis="x", which="minor", bottom=False)
        panel.grid(axis="x", color="#e6e6e6")
        panel.set_axisbelow(True)
    panels[0][0].set_yticks(range(len(names)), [f"{name}, {sizes[name] / 1e6:.3g} MB" for name in names])
    panels[0][0].set_ylim(len(names) - 0.4, -0.6)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def time_over_size(report: dict[str, Any]) -> plt.Figure:
    """Nanoseconds for each value over the size of x: steps where a cache is full."""
    cases = report["sweep"]
    ops = [op for op in TITLES if any(case["op"] == op for case in cases)]
    figure, panels = plt.subplots(
        1, len(ops), sharey=True, squeeze=False, layout="constrained", figsize=(1.2 + 3.6 * len(ops), 4)
    )
    for panel, op in zip(panels[0], ops, strict=True):
        chosen = sorted((case for case in cases if case["op"] == op), key=lambda case: case["size"])
        for who in ("limit", "torch", "bnkern"):
            points = [(c["size"], s / (c["size"] / 4) * 1e9) for c in chosen if (s := time_of(c, who))]
            if points:
                style = {"linestyle": (0, (4, 2))} if who == "limit" else {"marker": "o", "markersize": 3}
                panel.plot(*zip(*points, strict=True), color=COLOURS[who], label=LABELS[who], **style)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        for name, size in report["machine"]["caches"].items():
            panel.axvline(size, color=PALE, linewidth=0.8, linestyle=":")
            panel.annotate(
                name, (size, 1), xycoords=("data", "axes fraction"), xytext=(2, -10),
                textcoords="offset points", fontsize=8, color=PALE,
            )  # fmt: skip
        panel.xaxis.set_major_locator(FixedLocator([2**k for k in range(14, 29, 3)]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_words(value)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_title(TITLES[op])
        panel.set_xlabel("size of x")
        panel.grid(color="#eeeeee")
        panel.set_axisbelow(True)
    panels[0][0].set_ylabel("ns for each value")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    title = f"Time over size, (N, 16, 16, 16) float32: {caption(report['machine'])}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def in_words(size: float) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"

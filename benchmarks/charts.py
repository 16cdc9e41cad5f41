"""The two pictures of the documentation: how near the limit each layer is, and where the slow corners are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corners
import matplotlib as mpl
import numpy as np
from figures import MEDIUM, time_of

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

INK, PALE = "#333333", "#8a8a8a"
COLOURS = {"bnkern": "#1f6f8b", "torch": "#c8553d", "onednn": "#d9a441"}
LABELS = {"bnkern": "bnkern", "torch": "PyTorch, memory kept", "onednn": "oneDNN, best layout and version"}
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
    """The pictures that the figures suffice for, float32."""
    said = caption(report["machine"])
    cases = [
        case
        for case in report["cases"]
        if case["op"] in TITLES and case["size"] >= MEDIUM and case["dtype"] == "float32" and case["list"] == "shapes"
    ]
    with mpl.rc_context(STYLE):
        if cases:
            yield save(layer_bars(cases, f"Times the limit, float32: {said}"), folder / "bench-layers.png")
        if report["corners"]:
            yield save(corner_map(report["corners"], said), folder / "bench-corners.png")


def caption(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, {machine['isa']}, threads: {machine['threads']}, {machine['date']}"


def save(figure: plt.Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def title(figure: plt.Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


# --- layers -----------------------------------------------------------------------------------------------


def layer_bars(cases: list[dict[str, Any]], text: str) -> plt.Figure:
    """A row of panels for each layout, one for each operation; bars for each layer, from the limit on, logarithmic."""
    ops = [op for op in TITLES if any(case["op"] == op for case in cases)]
    layouts = [layout for layout in WORDS if any(case["layout"] == layout for case in cases)]
    whos = [who for who in LABELS if any(time_of(case, who) for case in cases)]
    names = {layout: sorted({(-c["size"], c["layer"]) for c in cases if c["layout"] == layout}) for layout in layouts}
    figure, panels = plt.subplots(
        len(layouts), len(ops), sharex=True, sharey="row", squeeze=False, layout="constrained",
        figsize=(3.2 + 3.2 * len(ops), 1.4 + 0.36 * sum(map(len, names.values()))),
        height_ratios=[len(names[layout]) for layout in layouts],
    )  # fmt: skip
    for line, layout in zip(panels, layouts, strict=True):
        for panel, op in zip(line, ops, strict=True):
            chosen = {c["layer"]: c for c in cases if (c["layout"], c["op"]) == (layout, op)}
            bars(panel, [chosen.get(name) for _, name in names[layout]], whos)
            panel.set_title(f"{TITLES[op]}, {WORDS[layout]}")
        line[0].set_yticks(range(len(names[layout])), [f"{n}, {-size / 1e6:.3g} MB" for size, n in names[layout]])
        line[0].set_ylim(len(names[layout]) - 0.4, -0.6)
    for panel in panels[-1]:
        panel.set_xlabel("times the limit (longer is slower)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    title(figure, text)
    return figure


def bars(panel: plt.Axes, cases: list[dict[str, Any] | None], whos: list[str]) -> None:
    height = 0.84 / len(whos)
    for k, who in enumerate(whos):
        found = [
            (row + (k - (len(whos) - 1) / 2) * height, seconds / limit)
            for row, case in enumerate(cases)
            if case and (seconds := time_of(case, who)) and (limit := time_of(case, "limit"))
        ]
        rows, ratios = zip(*found, strict=True) if found else ((), ())
        # Drawn from the limit, 1: what takes less than it is to the left of it.
        panel.barh(rows, [r - 1 for r in ratios], height, left=1, color=COLOURS[who], label=LABELS[who])
        if who == "bnkern":
            for row, ratio in found:
                panel.annotate(
                    f"{ratio:.2f}", (max(1, ratio), row), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=7, color=COLOURS[who],
                )  # fmt: skip
    panel.set_xscale("log")
    panel.axvline(1, color=INK, linewidth=1)
    panel.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4, 8, 16, 32]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(axis="x", which="minor", bottom=False)
    panel.tick_params(axis="x", labelbottom=True)
    panel.grid(axis="x", color="#e6e6e6")
    panel.set_axisbelow(True)


# --- corners ----------------------------------------------------------------------------------------------


def corner_map(lines: list[dict[str, Any]], said: str) -> plt.Figure:
    """A map for each size and operation: channels downwards, row lengths to the right, colour for times the limit."""
    sizes = sorted({line["MB"] for line in lines})
    columns = [*map(str, corners.ROWS), "cl"]
    figure, panels = plt.subplots(
        len(sizes), len(TITLES), sharey=True, squeeze=False, layout="constrained", figsize=(15, 0.8 + 3.7 * len(sizes))
    )
    norm = LogNorm(0.5, 8)
    for row, size in zip(panels, sizes, strict=True):
        for panel, (op, words) in zip(row, TITLES.items(), strict=True):
            chosen = [line for line in lines if (line["MB"], line["op"]) == (size, op)]
            values = np.array([line["x limit"] for line in chosen], float)
            image = panel.imshow(values, cmap="RdYlBu_r", norm=norm, aspect="auto")
            bar, least = corners.BARS[op]
            for i, j in np.argwhere(np.isfinite(values)):
                missed = values[i, j] > bar and size << 20 >= least
                ink = "white" if not 0.75 < values[i, j] < 4.5 else "#222222"
                panel.text(
                    j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=9, color=ink,
                    weight="bold" if missed else "normal",
                )  # fmt: skip
                if missed:
                    panel.add_patch(plt.Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, ec="black", lw=1.8))
            panel.axvline(len(corners.ROWS) - 0.5, color="white", linewidth=5)
            said_bar = f"framed: above {bar:g}" if size << 20 >= least else "no bar"
            panel.set_title(f"{words}, {size} MB ({said_bar})")
            panel.set_xticks(range(len(columns)), columns)
            panel.set_yticks(range(len(chosen)), [str(line["channels"]) for line in chosen])
            panel.tick_params(length=0)
            for spine in panel.spines.values():
                spine.set_visible(False)
        row[0].set_ylabel("channels")
    for panel in panels[-1]:
        panel.set_xlabel("length of a row, channels first; cl: channels last")
    shade = figure.colorbar(image, ax=panels, label="times the limit", shrink=0.6, pad=0.01)
    shade.ax.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4, 8]))
    shade.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    shade.ax.yaxis.set_minor_formatter(NullFormatter())
    title(figure, f"Slow corners: time over limit, float32, by channels and rows: {said}")
    return figure

"""Figure 1 of the paper, drawn from our own two runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .data import Data
from .errors import DemoError
from .training import PERCENTILES, History

PLAIN_COLOUR, NORM_COLOUR, INK, PALE = "#c8553d", "#1f6f8b", "#333333", "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def check_target(path: Path) -> None:
    """Raise a DemoError, before any work is done, if the picture could not be written there."""
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise DemoError(f"--out: expected a name that ends in one of {', '.join(sorted(kinds))}, got {path}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DemoError(f"--out: expected a folder that exists, got {folder}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise DemoError(f"--out: expected a file that may be written, got {path}")


def draw(path: Path, data: Data, plain: History, normalised: History) -> None:
    """Write the picture: (a) accuracy over steps, (b, c) one unit's input without and with batch norm."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.6), dpi=160, layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
        draw_accuracy(left, plain, normalised)
        left.set_title(f"(a) accuracy on {len(data.test_labels)} test images")
        draw_input(middle, plain, PLAIN_COLOUR)
        middle.set_title("(b) one unit's input, plain")
        middle.set_ylabel("input of the sigmoid")
        right.sharey(middle)
        draw_input(right, normalised, NORM_COLOUR)
        right.set_title("(c) with batch norm")
        right.tick_params(labelleft=False)
        label_ends(middle, plain, PLAIN_COLOUR)
        label_ends(right, normalised, NORM_COLOUR)
        for axes in (left, middle, right):
            axes.set_xlim(0, int(plain.steps[-1]))
            axes.set_xlabel("training steps")
            axes.locator_params(axis="x", nbins=5)
        try:
            figure.savefig(path)
        except OSError as error:
            raise DemoError(f"--out: {path} cannot be written: {error}") from error


def draw_accuracy(axes: Axes, plain: History, normalised: History) -> None:
    """Both curves, and where each first reaches the plain network's best."""
    axes.axhline(100 * plain.best, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    for history, colour, name in ((normalised, NORM_COLOUR, "batch norm"), (plain, PLAIN_COLOUR, "plain")):
        step = history.first_reaching(plain.best)
        axes.plot(
            history.steps,
            100 * history.accuracy,
            "o-",
            markevery=[] if step is None else [int((history.steps == step).argmax())],
            label=f"{name}: {'never' if step is None else f'step {step}'}",
            color=colour,
            linewidth=1.8,
            markersize=8,
            markeredgecolor="white",
            zorder=3,
        )
    axes.set_ylim(0, 102)
    axes.set_ylabel("accuracy, %")
    axes.legend(
        title=f"{plain.best:.1%} first reached at", loc="center right", frameon=False, alignment="left"
    )


def draw_input(axes: Axes, history: History, colour: str) -> None:
    """The percentiles of what one unit of the last hidden layer hands to its sigmoid."""
    low, middle, high = history.percentiles.T
    axes.fill_between(history.steps, low, high, color=colour, alpha=0.18, linewidth=0)
    for values, percentile in zip((low, middle, high), PERCENTILES, strict=True):
        axes.plot(history.steps, values, color=colour, linewidth=1.8 if percentile == 50 else 1.0)


def label_ends(axes: Axes, history: History, colour: str) -> None:
    """Name the percentiles beside their last values, apart even where the lines meet."""
    bottom, top = axes.get_ylim()
    low, middle, high = history.percentiles[-1]
    apart = 0.055 * (top - bottom)
    places = (min(low, middle - apart), middle, max(high, middle + apart))
    for place, percentile in zip(places, PERCENTILES, strict=True):
        axes.annotate(
            f"{percentile}th",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
        )

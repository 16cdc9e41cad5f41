"""What the demo prints: progress bars while it trains, then two tables and a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .data import Data
from .training import HIDDEN, History, Settings, train

PLAIN, NORMALISED = "plain", "batch norm"


def console() -> Console:
    return Console(highlight=False)


def print_head(out: Console, data: Data, settings: Settings) -> None:
    train_count, test_count = len(data.train_labels), len(data.test_labels)
    layers = " - ".join(str(n) for n in (data.train_images.shape[1], *HIDDEN, data.classes))
    out.print(f"[bold]{escape(data.name)}[/]: {train_count} images to train, {test_count} to test")
    out.print(f"Network {layers}, sigmoid")
    out.print(
        f"{settings.steps} steps of {settings.batch} images, rate {settings.rate:g}, seed {settings.seed}"
    )


def train_with_progress(out: Console, data: Data, settings: Settings) -> tuple[History, History]:
    """Train the plain network, then the normalised one, each under a progress bar."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=out) as progress:

        def run(name: str, normalise: bool) -> History:
            task = progress.add_task(name, total=settings.steps, accuracy="")

            def report(step: int, accuracy: float) -> None:
                progress.update(task, completed=step, accuracy=f"{accuracy:6.1%}")

            return train(data, settings, normalise=normalise, report=report)

        return run(PLAIN, False), run(NORMALISED, True)


def print_tables(out: Console, plain: History, normalised: History) -> None:
    for part in (
        accuracy_table(plain, normalised),
        summary_table(plain, normalised),
        verdict(plain, normalised),
    ):
        out.print()
        out.print(part)


def print_foot(out: Console, picture: Path) -> None:
    out.print(f"Picture: [bold]{escape(str(picture))}[/]", soft_wrap=True)


def accuracy_table(plain: History, normalised: History) -> Table:
    """Test accuracy at several steps, green from where it has reached the plain network's best."""
    table = Table(title="Test accuracy", title_justify="left", title_style="bold")
    table.add_column("step", justify="right")
    table.add_column(PLAIN, justify="right")
    table.add_column(NORMALISED, justify="right")
    for row in table_rows(plain.steps):
        cells = [
            f"[green]{value:.1%}[/]" if value >= plain.best else f"{value:.1%}"
            for value in (plain.accuracy[row], normalised.accuracy[row])
        ]
        table.add_row(str(plain.steps[row]), *cells)
    return table


def table_rows(steps: NDArray[np.intp]) -> list[int]:
    """Indices of the recorded steps nearest to 0, 1, 2, 5, 10, 20, 50 ... and of the last one.

    In such distances, because the networks differ most in the early steps.
    """
    last = int(steps[-1])
    targets = [m * 10**k for k in range(len(str(last))) for m in (1, 2, 5)]
    wanted = [0, *(target for target in targets if steps[min(1, len(steps) - 1)] <= target < last), last]
    return sorted({int(np.abs(steps - target).argmin()) for target in wanted})


def summary_table(plain: History, normalised: History) -> Table:
    table = Table(title="Summary", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(PLAIN, justify="right")
    table.add_column(NORMALISED, justify="right")
    both = (plain, normalised)
    table.add_row("best test accuracy", *(f"{history.best:.1%}" for history in both))
    table.add_row(
        f"first step with {plain.best:.1%}, the plain network's best",
        *(_step(history.first_reaching(plain.best)) for history in both),
    )
    table.add_row(
        "training time until there", *(_seconds(seconds_to(history, plain.best)) for history in both)
    )
    table.add_row("training time in all", *(f"{history.seconds:.2f} s" for history in both))
    share = normalised.norm_seconds / normalised.seconds
    table.add_row("of it in batch norm", "", f"{normalised.norm_seconds:.2f} s ({share:.0%})")
    steps = int(normalised.steps[-1])
    table.add_row("a step", *(f"{1e3 * history.seconds / steps:.2f} ms" for history in both))
    return table


def verdict(plain: History, normalised: History) -> str:
    """The finding in one sentence."""
    first, target = normalised.first_reaching(plain.best), plain.first_reaching(plain.best)
    if first is None:
        return f"With batch norm the network did not reach the plain network's best, {plain.best:.1%}."
    if not first or not target:
        return "The plain network learned nothing in these steps at this rate."
    return (
        f"With batch norm the network reaches the plain network's best accuracy, {plain.best:.1%}, "
        f"in {first} steps instead of {target}: a ratio of [bold]{target / first:.1f}[/]."
    )


def seconds_to(history: History, accuracy: float) -> float | None:
    """Training time until the first recorded step with this accuracy."""
    step = history.first_reaching(accuracy)
    return None if step is None else history.seconds * step / int(history.steps[-1])


def _step(step: int | None) -> str:
    return "never" if step is None else str(step)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"

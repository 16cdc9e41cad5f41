"""The command `bnkern bench`: how near this machine's memory lets bnkern come to its limit, in a minute."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bnkern._build import VERSION
from bnkern._dtypes import DTYPES
from bnkern._explain import explain
from bnkern._native import kernels
from bnkern._threads import MOST, get_num_threads, threads
from bnkern.cli.measure import (
    LAYOUTS,
    OPS,
    Call,
    Case,
    kernel,
    least_bytes,
    limit,
    make_case,
    measure,
    torch_calls,
)

SHAPES = ((32, 256, 56, 56), (32, 512, 7, 7), (2, 32, 14, 14))
NAMES = {"nchw": LAYOUTS[0], "nhwc": LAYOUTS[1]}
HEADER = ("operation", "time", "GB/s", "x limit", "how", "torch", "x bnkern")


class Row(NamedTuple):
    """What was measured of one operation: medians, in seconds."""

    op: str
    bytes: int
    seconds: float
    limit: float
    how: str
    torch: float | None


class Result(NamedTuple):
    """What was measured on one layer: the machine's limits in bytes a second, and the operations."""

    title: str
    copy: float
    triad: float
    rows: list[Row]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure bnkern on this machine, beside the machine's limit (all threads stream a copy, for "
        "gradients a sum of two arrays) and beside PyTorch where it is installed; in turn, medians."
    )
    add = parser.add_argument
    add(
        "--shape", type=_shape, action="append", metavar="N,C,...",
        help="a layer, channels second in either layout (default: one large, one medium, one small)",
    )  # fmt: skip
    add("--dtype", choices=DTYPES, default="float32", help="of x (default: %(default)s)")
    add("--layout", choices=NAMES, help="channels first or last in memory (default: both)")
    add("--ops", type=_ops, default=tuple(OPS), metavar="OP,...", help=f"some of {', '.join(OPS)}")
    add("--threads", type=_threads, metavar="N", help="1 to 512 (default: as `bnkern info` tells)")
    add(
        "--seconds",
        type=_seconds,
        default=50,
        metavar="S",
        help="for everything, roughly (default: %(default)s)",
    )
    add("--no-torch", action="store_true", help="leave PyTorch out")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 2 when a shape cannot be measured here."""
    shapes = args.shape or SHAPES
    layouts = [NAMES[args.layout]] if args.layout else list(LAYOUTS)
    jobs = [(s, m) for s in shapes for m in (layouts if len(s) > 2 else layouts[-1:])]
    budget = min(3.0, args.seconds / (len(jobs) * len(args.ops)))
    with threads(args.threads) if args.threads else nullcontext():
        printer = _printer()
        machine = f"{processor()}, {kernels.level()}, threads: {get_num_threads()}"
        printer.line(f"bnkern {VERSION} on {machine}, {args.dtype}")
        if not args.no_torch and find_spec("torch") is None:
            printer.line("PyTorch is not installed: its columns stay empty.")
        for shape, layout in jobs:
            try:
                with printer.busy(f"{_words(shape)} {layout}"):
                    result = _measure(shape, layout, args, budget)
            except (ValueError, MemoryError) as error:
                print(f"bnkern bench: {_words(shape)}: {error or 'not enough memory'}", file=sys.stderr)
                return 2
            printer.table(result)
    return 0


def _measure(shape: tuple[int, ...], layout: str, args: argparse.Namespace, budget: float) -> Result:
    case = make_case(shape, layout, args.dtype)
    beside = not args.no_torch and find_spec("torch") is not None
    rows: list[Row] = []
    limits: dict[str, float] = {}
    for op in args.ops:
        calls: dict[str, Call] = {"copy": limit(case, "copy"), "triad": limit(case, "triad")}
        calls["bnkern"] = kernel(case, op)
        if beside:
            calls["torch"] = torch_calls(case, op)["torch"]
        seconds = {name: median(samples) for name, samples in measure(calls, budget).items()}
        limits = {kind: min(seconds[kind], limits.get(kind, seconds[kind])) for kind in ("copy", "triad")}
        rows.append(
            Row(
                op, least_bytes(case, op), seconds["bnkern"], seconds[OPS[op]], _how(case, op),
                seconds.get("torch"),
            )
        )  # fmt: skip
    size = int(case.x.nbytes)
    title = f"{_words(shape)} {layout} {args.dtype}, {_megabytes(size)}"
    return Result(title, 2 * size / limits["copy"], 3 * size / limits["triad"], rows)


def _how(case: Case, op: str) -> str:
    """Strategy, stores and threads, as `explain` tells them."""
    try:
        told: Any = explain(case.x, case.axis, op)
    except ValueError:  # an operation that it does not know
        return ""
    strategy, stores = getattr(told, "strategy", None), getattr(told, "stores", None)
    parts = [strategy, stores and op != "stats" and f"{stores} stores"]
    if told.threads is not None:
        parts.append("1 thread" if told.threads == 1 else f"{told.threads} threads")
    return ", ".join(part for part in parts if part)


# --- what is printed --------------------------------------------------------------------------------------


class Plain:
    """Tables in plain text, where rich is not installed."""

    def line(self, text: str) -> None:
        print(text)

    def busy(self, what: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def table(self, result: Result) -> None:
        rows = [HEADER, *_cells(result)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        print(f"\n{result.title}")
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(_limits(result))


class Rich(Plain):
    """The same with frames, colours, and a word on what is being measured."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def busy(self, what: str) -> AbstractContextManager[Any]:
        # Drawn twice a second: an animation would take time from what it waits for.
        return self.console.status(f"measuring {what} ...", refresh_per_second=2)

    def table(self, result: Result) -> None:
        from rich.table import Table

        table = Table(title=result.title, title_justify="left", title_style="bold", caption_justify="left")
        table.caption = _limits(result)
        for name in HEADER:
            table.add_column(name, justify="left" if name in ("operation", "how") else "right")
        for row, cells in zip(result.rows, _cells(result), strict=True):
            near = row.seconds / row.limit
            colour = "green" if near <= 1.3 else "yellow" if near <= 2 else "red"
            table.add_row(*cells[:3], f"[{colour}]{cells[3]}[/]", *cells[4:])
        self.console.print()
        self.console.print(table)


def _printer() -> Plain:
    try:
        return Rich()
    except ImportError:
        return Plain()


def _cells(result: Result) -> Iterator[Sequence[str]]:
    for row in result.rows:
        yield (
            row.op,
            time_in_words(row.seconds),
            f"{row.bytes / row.seconds / 1e9:.1f}",
            f"{row.seconds / row.limit:.2f}",
            row.how,
            "-" if row.torch is None else time_in_words(row.torch),
            "-" if row.torch is None else f"{row.torch / row.seconds:.1f}",
        )


def _limits(result: Result) -> str:
    return (
        f"The limit here: copy {result.copy / 1e9:.1f} GB/s, triad (backward, frozen) "
        f"{result.triad / 1e9:.1f} GB/s. GB/s counts the bytes that no way of doing it can avoid."
    )


def time_in_words(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"


def _words(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- arguments --------------------------------------------------------------------------------------------


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected at least two sizes such as 32,256,56,56, got {text!r}")
    return shape


def _ops(text: str) -> tuple[str, ...]:
    ops = tuple(text.split(","))
    if not set(ops) <= set(OPS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(OPS)}, got {text!r}")
    return ops


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return seconds


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, got {text!r}")
    return int(text)

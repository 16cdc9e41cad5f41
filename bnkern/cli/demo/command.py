"""The command `bnkern demo`: its arguments, and what runs in which order."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from .errors import DemoError
from .training import Settings

QUICK_STEPS = 400
EXTRA = "pip install '.[demo]', from the source folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.description = (
        "Train the network of the batch normalisation paper's first experiment (arXiv 1502.03167, section "
        "4.1) with batch normalisation and without, from the same weights, on the same minibatches, at the "
        "same learning rate; print a table and draw the paper's Figure 1."
    )
    parser.epilog = (
        f"The learning rate, {default.rate}, is one at which the plain network does well: it is not held "
        "back to look bad. At higher rates the plain network gets faster and the lead of batch normalisation "
        "smaller, at lower rates the other way round; help(bnkern.cli.demo) has the figures."
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of MNIST IDX files, .gz or not (default: scikit-learn's bundled digits)",
    )
    add("--steps", type=_count, metavar="N", help=f"training steps (default: {default.steps})")
    add(
        "--batch",
        type=_count,
        default=default.batch,
        metavar="N",
        help="images in a minibatch (default: %(default)s, the paper's)",
    )
    add(
        "--rate",
        type=_rate,
        default=default.rate,
        metavar="R",
        help="learning rate of both networks (default: %(default)s)",
    )
    add(
        "--seed",
        type=_seed,
        default=default.seed,
        metavar="S",
        help="seed of weights and minibatches (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        default=default.out,
        metavar="FILE",
        help="where the picture goes (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help=f"only {QUICK_STEPS} steps, to see that all is well: too few for the plain network",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 2 when the arguments, the data or the installed packages do not allow it."""
    steps = args.steps or (QUICK_STEPS if args.quick else Settings().steps)
    settings = Settings(
        data=args.data, steps=steps, batch=args.batch, rate=args.rate, seed=args.seed, out=args.out
    )
    try:
        demo(settings)
        if args.quick and not args.steps:
            print("That was a quick look, too short for the plain network. Leave out --quick for more.")
    except DemoError as error:
        print(f"bnkern demo: {error}", file=sys.stderr)
        return 2
    return 0


def demo(settings: Settings) -> None:
    """Train both networks, print the tables, draw the picture."""
    require("rich", "matplotlib", *([] if settings.data else ["sklearn"]))
    from . import data, picture, report

    picture.check_target(settings.out)
    images = data.load(settings.data)
    if not 2 <= settings.batch <= len(images.train_labels):
        raise DemoError(
            f"--batch: expected 2 to {len(images.train_labels)}, the images to train on, got {settings.batch}"
        )
    console = report.console()
    report.print_head(console, images, settings)
    plain, normalised = report.train_with_progress(console, images, settings)
    report.print_tables(console, plain, normalised)
    picture.draw(settings.out, images, plain, normalised)
    report.print_foot(console, settings.out)


def require(*packages: str) -> None:
    """Raise a DemoError that names the extra, unless all `packages` can be imported."""
    missing = []
    for package in packages:
        try:
            import_module(package)
        except ImportError:
            missing.append("scikit-learn" if package == "sklearn" else package)
    if missing:
        raise DemoError(f"needs {' and '.join(missing)}, of the extra 'demo': {EXTRA}")


def _count(text: str) -> int:
    return int(_number(text, int, 1, "a whole number from 1"))


def _seed(text: str) -> int:
    return int(_number(text, int, 0, "a whole number from 0"))


def _rate(text: str) -> float:
    return _number(text, float, math.ulp(0), "a positive number")


def _number(text: str, kind: Callable[[str], float], least: float, expected: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value

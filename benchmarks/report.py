"""Measure, print tables, keep the figures, draw the pictures: `python benchmarks/report.py --standard`.

--standard is all that README and documentation need, in about ten minutes: it writes results/PROCESSOR-LEVEL.json and
.md, the raw figures under results/raw/ (which git ignores), and docs/bench-*.png. Without it the options choose what is
measured, and nothing is written unless --out says where. --again FILE.json makes everything anew from kept figures, raw
or summary.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import time
from pathlib import Path
from random import SystemRandom
from statistics import quantiles
from typing import Any

import bars
import corners
import layers
import machine
import readme
import results
import rivals
import sixteen
import small
import suite
import tables

import bnkern
from bnkern._native import kernels
from bnkern.cli.measure import OPS, Case, make_case, measure

HERE = Path(__file__).resolve().parent
LISTS = {"shapes": HERE / "shapes.txt", "odd": HERE / "odd_shapes.txt"}
PARTS = ("shapes", "odd", "drawn", "dtypes", "corners", "sixteen", "small")
STANDARD_RIVALS = ["torch", "onednn", "onednn-gomp"]


def main() -> None:
    args = arguments()
    if args.again:
        report = results.load(args.again)
        report["options"]["statistic"] = args.statistic
        publish(report, args)
        return
    if args.threads:
        bnkern.set_num_threads(args.threads)
    names = rivals_for(args)
    report = {"machine": machine.facts(names), "options": options(args, names)}
    report |= {"cases": [], "small": [], "corners": [], "sixteen": []}
    begin = time.monotonic()
    report["machine"]["before"] = machine.state()
    try:
        for part in args.parts:
            measure_part(report, part, args, names)
    except KeyboardInterrupt:
        print("interrupted: here is what there is", file=sys.stderr)
    report["machine"]["after"] = machine.state()
    report["machine"]["minutes"] = round((time.monotonic() - begin) / 60, 1)
    publish(results.completed(report), args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--standard", action="store_true", help="what README and documentation need, in about ten minutes; writes it")
    everything = {"ops": list(OPS), "layouts": list(suite.NAMES), "dtypes": list(suite.DTYPES)}
    for name, known in everything.items():
        add(f"--{name}", type=some_of(known), metavar="A,B", help=f"some of {','.join(known)}")
    add("--parts", type=some_of(PARTS), metavar="A,B", help=f"some of {','.join(PARTS)}")
    known = ["none", *rivals.RIVALS]
    add("--rivals", type=some_of(known), metavar="A,B", help=f"some of {','.join(known)}")
    add(
        "--shapes", action="append", metavar="X",
        help="a shape such as 32,256,56,56, or the layers with X in their name;\nmay be repeated",
    )  # fmt: skip
    add("--seed", type=int, help="of the shapes drawn at random (default: another one each time; it is printed)")
    add("--draw", type=int, default=12, help="how many (default: %(default)s)")
    add("--seconds", type=float, default=0.6, help="for each operation on a layer (default: %(default)s)")
    add(
        "--statistic", choices=results.STATISTICS, default="median",
        help="what stands for a call: low is the lower quartile, where other programs\ndisturb (default: %(default)s)",
    )  # fmt: skip
    add("--threads", type=int, help="of bnkern, the limit and the rivals (default: as `bnkern info` tells)")
    add("--variants", choices=suite.VARIANTS, default="fresh", help="other ways to call bnkern (default: %(default)s)")
    add("--quick", action="store_true", help="little time, small layers, nothing written: shows that all runs")
    add("--out", type=Path, help="folder for figures and tables")
    add("--charts", type=Path, help="folder for the pictures")
    add("--again", type=Path, metavar="FILE.json", help="measure nothing: from these figures")
    add(
        "--readme", type=Path, nargs="?", const=True, metavar="README.md",
        help="print the README's speed section instead of the tables, or write it to its place there",
    )  # fmt: skip
    args = parser.parse_args()
    args.seed = SystemRandom().randrange(10**6) if args.seed is None else args.seed
    args.ops = args.ops or list(suite.MAIN_OPS)
    args.layouts, args.dtypes = args.layouts or list(suite.NAMES), args.dtypes or ["float32"]
    args.parts = args.parts or (list(PARTS) if args.standard or args.quick else ["shapes"])
    if args.standard:
        args.out, args.charts = args.out or HERE / "results", args.charts or HERE.parent / "docs"
    if args.quick:
        args.shapes, args.seconds, args.draw = args.shapes or list(suite.QUICK), 0.02, 1
    return args


def some_of(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {text}")
        return chosen

    return parse


def rivals_for(args: argparse.Namespace) -> list[str]:
    names = [name for name in args.rivals or STANDARD_RIVALS if name != "none"]
    for name in [name for name in names if rivals.missing(name)]:
        note(f"skipped: {rivals.missing(name)}")
        names.remove(name)
    return names


def options(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    kept = ("standard", "parts", "shapes", "seed", "draw", "seconds", "statistic", "variants")
    return {key: getattr(args, key) for key in kept} | {"rivals": names}


# --- measuring --------------------------------------------------------------------------------------------


def measure_part(report: dict[str, Any], part: str, args: argparse.Namespace, names: list[str]) -> None:
    quick = args.quick
    if part == "corners":
        report["corners"] = [] if quick else corners.figures(seconds=args.seconds / 3, note=note)
    elif part == "small":
        report["small"] = small.figures(names, 0.01 if quick else 0.5)
    elif part == "sixteen":
        for level in (level for level in bars.SIXTEEN if level in kernels.levels()):
            note(f"16 bit on {level}")
            report["sixteen"] += sixteen.on_level(level, args.layouts, args.seconds / 2, quick)
    else:
        dtypes = [d for d in suite.DTYPES if d != "float32"] if part == "dtypes" else args.dtypes
        jobs = list(suite.problems(wanted_layers(part, args), args.layouts, dtypes))
        for done, problem in enumerate(jobs):
            note(f"{part} {done + 1}/{len(jobs)}: {problem}")
            report["cases"] += cases_of(problem, part, args, names)


def wanted_layers(part: str, args: argparse.Namespace) -> list[layers.Layer]:
    if part == "drawn":
        note(f"shapes drawn with --seed {args.seed}")
        return layers.drawn(args.seed, args.draw, **({"least": 1 << 12, "most": 1 << 16} if args.quick else {}))
    if part == "dtypes":
        return [layers.Layer("quick", (2, 32, 7, 7), 1)] if args.quick else suite.selected()
    known = layers.load(LISTS[part])
    if not args.shapes:
        return known
    chosen = [layer for layer in known if any(text in layer.name for text in args.shapes)]
    if part == "shapes":
        given = [text for text in args.shapes if re.fullmatch(r"\d+(,\d+)+", text)]
        chosen += [layers.Layer(text, layers.parse_shape(text), 1) for text in given]
        if not chosen:
            raise SystemExit(f"--shapes: no layer of {LISTS[part]} has {' or '.join(args.shapes)} in its name")
    return chosen


def cases_of(problem: suite.Problem, part: str, args: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    variants = "all" if part == "shapes" and problem.layer.name in suite.SELECTED else args.variants
    try:
        case = make_case(problem.layer.shape, suite.NAMES[problem.layout], problem.dtype)
        return [
            measured(problem, part, case, op, suite.calls(case, op, names, variants), args.seconds) for op in args.ops
        ]
    except MemoryError as error:
        note(f"skipped {problem}: {error}")
        return []


def measured(
    problem: suite.Problem, part: str, case: Case, op: str, calls: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """One line of the figures: what it was, and the times of all who took part."""
    times = {}
    for who, samples in measure(rivals.contenders(calls), seconds, rounds=5).items():
        low, middle, _ = quantiles(samples, n=4) if len(samples) > 1 else samples * 3
        times[who] = {"median": middle, "low": low, "least": min(samples), "samples": len(samples)}
    shape, name = problem.layer.shape, problem.layer.name
    keys = {"list": part, "layer": name, "shape": list(shape), "times": problem.layer.times}
    return keys | {"layout": problem.layout, "dtype": problem.dtype, "op": op, "how": how(case, op), "seconds": times}


def how(case: Case, op: str) -> str:
    """Strategy, stores and threads, as `bnkern.explain` tells them."""
    told = bnkern.explain(case.x, case.axis, op)
    words = [str(word) for word in (told.strategy, told.stores) if word]
    return ", ".join([*words, f"threads: {told.threads}"])


# --- what comes of it -------------------------------------------------------------------------------------


def publish(report: dict[str, Any], args: argparse.Namespace) -> None:
    seen = results.reduced(report, report["options"]["statistic"])
    if isinstance(args.readme, Path):
        readme.paste(seen, args.readme)
    else:
        print(readme.section(seen) if args.readme else tables.render(seen))
    if args.again:
        stem = args.again.with_suffix("")
        if args.out or args.charts:
            stem = (args.out or stem.parent) / name_of(report)
    else:
        stem = args.out / name_of(report) if args.out else None
        if stem:
            stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
            results.write_raw(report, stem.parent / "raw" / f"{stamp}-{stem.name}.json")
    if stem and args.out:
        results.write(seen, stem.parent / f"{stem.name}.json")
        (stem.parent / f"{stem.name}.md").write_text(tables.render(seen) + "\n")
        note(f"written: {stem}.json and .md; {len(bars.losses(seen))} lines where a rival is faster")
    if args.charts:
        import charts  # matplotlib, for who draws

        for path in charts.draw(seen, args.charts):
            note(f"drawn: {path}")


def name_of(report: dict[str, Any]) -> str:
    """One file for each machine: a later run replaces an earlier one."""
    facts = report["machine"]
    return re.sub(r"[^a-z0-9_]+", "-", f"{facts['processor']}-{facts['isa']}".lower()).strip("-")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

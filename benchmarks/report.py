"""Measure everything, print tables, keep the figures and draw the charts: `python benchmarks/report.py`.

Writes benchmarks/results/DATE-PROCESSOR.json and .md, and PNG charts to docs/. The options restrict what is
measured; `--again FILE.json` makes tables and charts anew from figures that were kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles
from typing import Any

import charts
import layers
import rivals
import suite
import tables

import bnkern
from bnkern._native import kernels
from bnkern.cli.bench import processor
from bnkern.cli.measure import OPS, Case, least_bytes, make_case, measure

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "torch", "onednn-cpu-gomp", "jax", "onnxruntime", "ml_dtypes")


def main() -> None:
    args = arguments()
    if args.again:
        report = json.loads(args.again.read_text())
        report["options"]["statistic"] = args.statistic
        publish(report, args.again.with_suffix(""), args.charts)
        return
    if args.threads:
        bnkern.set_num_threads(args.threads)
    report = {"machine": machine(), "options": options(args), "cases": [], "small": [], "sweep": []}
    try:
        measure_all(report, args)
    except KeyboardInterrupt:
        print("interrupted: here is what there is", file=sys.stderr)
    stem = f"{report['machine']['date']}-{slug(report['machine']['processor'])}"
    publish(report, args.out / stem if args.out else None, args.charts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    everything = {"ops": list(OPS), "layouts": list(suite.NAMES), "dtypes": list(suite.DTYPES)}
    for name, known in everything.items():
        add(f"--{name}", type=some_of(known), default=known, metavar="A,B", help=f"some of {','.join(known)}")
    add(
        "--rivals",
        type=some_of(["none", *rivals.RIVALS]),
        metavar="A,B",
        help=f"some of {','.join(rivals.RIVALS)}, or none",
    )
    add(
        "--shapes",
        action="append",
        metavar="X",
        help="a shape such as 32,256,56,56, or the layers with X in their name;\nmay be repeated",
    )
    add("--list", type=Path, default=HERE / "shapes.txt", help="the list of layers (see also odd_shapes.txt)")
    add("--seconds", type=float, default=2.0, help="for each case (default: %(default)s)")
    add(
        "--statistic",
        choices=("median", "least"),
        default="median",
        help="what stands for a call: least where other\nprograms disturb (default: %(default)s)",
    )
    add("--threads", type=int, help="of bnkern, the limit and the rivals (default: as `bnkern info` tells)")
    add("--no-variants", action="store_true", help="leave out fresh output, ReLU, residual, one thread")
    add("--no-sweep", action="store_true", help="leave out time over size")
    add(
        "--quick",
        action="store_true",
        help="little time, two small layers, nothing written: shows that all runs",
    )
    add("--out", type=Path, help=f"folder for figures and tables (default: {HERE / 'results'})")
    add("--charts", type=Path, help=f"folder for the charts (default: {HERE.parent / 'docs'})")
    add(
        "--again",
        type=Path,
        metavar="FILE.json",
        help="measure nothing: tables and charts from these figures",
    )
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.seconds = args.shapes or list(suite.QUICK), 0.1
    elif not args.again:
        args.out = args.out or HERE / "results"
    if not args.quick:
        args.charts = args.charts or HERE.parent / "docs"
    return args


def some_of(known: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {text}")
        return chosen

    return parse


def wanted_layers(args: argparse.Namespace) -> list[layers.Layer]:
    known = layers.load(args.list)
    if not args.shapes:
        return known
    chosen = []
    for text in args.shapes:
        if re.fullmatch(r"\d+(,\d+)+", text):
            chosen.append(layers.Layer(text, layers.parse_shape(text), 1))
        else:
            chosen += [layer for layer in known if text in layer.name]
    if not chosen:
        raise SystemExit(f"--shapes: no layer of {args.list} has {' or '.join(args.shapes)} in its name")
    return chosen


# --- measuring --------------------------------------------------------------------------------------------


def measure_all(report: dict[str, Any], args: argparse.Namespace) -> None:
    names = [name for name in args.rivals or rivals.RIVALS if name != "none"]
    for name in [name for name in names if rivals.missing(name)]:
        note(f"skipped: {rivals.missing(name)}")
        names.remove(name)
    busy = os.getloadavg()[0]
    if busy > 0.5:
        note(f"the load average is {busy:.1f}: other programs run here, and will be seen in the figures")

    def each(problem: suite.Problem, ops: list[str], choose: Any, kept: list[Any]) -> None:
        try:
            case = make_case(problem.layer.shape, suite.NAMES[problem.layout], problem.dtype)
            for op in ops:
                kept.append(measured(problem, case, op, choose(case, op), args.seconds))
        except MemoryError as error:
            note(f"skipped {problem}: {error}")

    jobs = list(suite.problems(wanted_layers(args), args.layouts, args.dtypes))
    start = time.monotonic()
    for done, problem in enumerate(jobs):
        spent = time.monotonic() - start
        left = f", {spent / done * (len(jobs) - done) / 60:.0f} min left" if done else ""
        note(f"{done + 1}/{len(jobs)} {problem}{left}")
        each(problem, args.ops, lambda c, op: suite.calls(c, op, names, not args.no_variants), report["cases"])
    for layer in suite.SMALL:
        problem = suite.Problem(layer, "nhwc" if len(layer.shape) == 2 else "nchw", "float32")
        note(str(problem))
        each(problem, list(suite.SMALL_OPS), lambda c, op: suite.small_calls(c, op, names), report["small"])
    if not (args.no_sweep or args.quick):
        torch = [name for name in names if name == "torch"]
        for layer in suite.SWEEP:
            note(layer.name)
            problem = suite.Problem(layer, "nchw", "float32")
            ops = [op for op in suite.SMALL_OPS if op in args.ops]
            each(problem, ops, lambda c, op: suite.calls(c, op, torch, variants=False), report["sweep"])


def measured(problem: suite.Problem, case: Case, op: str, calls: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One line of the figures: what it was, and the times of all who took part."""
    times = {}
    for who, samples in measure(calls, seconds).items():
        low, middle, high = quantiles(samples, n=4) if len(samples) > 1 else samples * 3
        times[who] = {
            "median": middle,
            "low": low,
            "high": high,
            "least": min(samples),
            "samples": len(samples),
        }
    return {
        "layer": problem.layer.name,
        "shape": problem.layer.shape,
        "times": problem.layer.times,
        "layout": problem.layout,
        "dtype": problem.dtype,
        "op": op,
        "size": int(case.x.nbytes),
        "bytes": least_bytes(case, op),
        "limit": OPS[op],
        "how": how(case, op),
        "seconds": times,
    }


def how(case: Case, op: str) -> dict[str, Any]:
    """What `bnkern.explain` says of this call, as far as it says anything."""
    try:
        told = bnkern.explain(case.x, case.axis, op)._asdict()
    except ValueError:
        return {}
    return {key: value for key, value in told.items() if isinstance(value, (str, int)) and key != "array"}


def machine() -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()}",
        "load before": round(os.getloadavg()[0], 2),
        "threads": bnkern.get_num_threads(),
        "isa": kernels.level(),
        "bnkern": bnkern.__version__,
        "compiler": bnkern.show_config("dicts")["build"]["compiler"],  # type: ignore[index]
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
    }


def caches() -> dict[str, int]:
    """Bytes of each data cache of the first core, as the system (or what it runs in) tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def options(args: argparse.Namespace) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# --- what comes of it -------------------------------------------------------------------------------------


def publish(report: dict[str, Any], stem: Path | None, folder: Path | None) -> None:
    seen = tables.reduced(report, report["options"]["statistic"])
    text = tables.render(seen)
    print(text)
    if stem:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_name(stem.name + ".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_name(stem.name + ".md").write_text(text + "\n")
        note(f"written: {stem}.json and .md")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for path in charts.draw(seen, folder):
            note(f"drawn: {path}")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

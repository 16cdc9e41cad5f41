"""Measure the GPU path, print tables and keep the figures: `python benchmarks/gpu.py`, where a GPU and CuPy are.

Device time between CUDA events, medians, over shapes.txt at four times the batch, in both layouts. The limit of
inference and training is a device-to-device copy of x's bytes, that of backward a triad (dx = x + dy), each measured
beside the call. Beside them stand PyTorch's CUDA batch norm (cuDNN where PyTorch picks it) and the same in plain CuPy
expressions. Before each call the L2 cache is flushed, which also keeps the device busy until the call is queued, so
the host's time is not in the figures; what a small call costs the host is measured apart.

Writes benchmarks/results/DATE-DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
sys.path.insert(0, str(HERE))  # layers, tables

import layers  # noqa: E402
import tables  # noqa: E402

import bnkern  # noqa: E402

OPS = ("inference", "train", "backward")
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "bfloat16")
BATCHES = 4  # times the list's
IN_A_ROW = 20  # small calls, so that the clock's own time does not count
FLUSH = 256 * 2**20  # bytes, more than any L2 cache
Call = Callable[[], Any]


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    cupy = import_module("cupy")
    report: dict[str, Any] = {"machine": machine(cupy), "options": vars(args) | {"out": None}, "cases": [], "small": []}
    try:
        for case in cases(args):
            report["cases"].append(case | {"milliseconds": measured(cupy, case, args)})
            print(line_of(report["cases"][-1]), flush=True)
        report["small"] = small_calls(cupy, args.rounds)
    except KeyboardInterrupt:
        print("interrupted: here is what there is", file=sys.stderr)
    text = render(report)
    print(text)
    if args.out:
        device = re.sub(r"[^a-z0-9]+", "-", report["machine"]["device"].lower()).strip("-")
        stem = args.out / f"{report['machine']['date']}-{device}"
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text + "\n")


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, known in (("ops", OPS), ("layouts", LAYOUTS), ("dtypes", DTYPES)):
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=list(known))
    parser.add_argument("--shapes", default="", help="only layers whose name holds this")
    parser.add_argument("--rounds", type=int, default=30, help="calls of each contender (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results; '' keeps none")
    args = parser.parse_args(words)
    args.out = args.out if str(args.out) != "." else None
    return args


def machine(cupy: Any) -> dict[str, Any]:
    runtime = cupy.cuda.runtime
    number = runtime.getDevice()
    properties = runtime.getDeviceProperties(number)
    torch = torch_or_none()
    return {
        "date": datetime.date.today().isoformat(),
        "device": properties["name"].decode(),
        "memory": properties["totalGlobalMem"],
        "driver": runtime.driverGetVersion(),
        "cupy": cupy.__version__,
        "bnkern": bnkern.__version__,
        "torch": torch and f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}",
    }


def torch_or_none() -> Any:
    try:
        torch = import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


# --- cases ----------------------------------------------------------------------------------------


def cases(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for layer in layers.load():
        if args.shapes not in layer.name:
            continue
        shape = (BATCHES * layer.shape[0], *layer.shape[1:])
        for dtype in args.dtypes:
            for layout in args.layouts:
                if len(shape) == 2 and layout == "nchw":
                    continue  # a matrix has one layout
                for op in args.ops:
                    size = int(np.prod(shape)) * (4 if dtype == "float32" else 2)
                    kind = {"dtype": dtype, "layout": layout, "op": op}
                    yield {"layer": layer.name, "shape": shape, **kind, "size": size}


def measured(cupy: Any, case: dict[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each contender; what a library refuses is left out, and said."""
    calls = contenders(cupy, case)
    flush = cupy.empty(FLUSH, np.uint8)
    times: dict[str, list[float]] = {}
    for name in list(calls):
        try:
            for _ in range(3):
                calls[name]()
        except Exception as error:  # a rival's, whatever it is
            if name in ("bnkern", "limit"):
                raise
            print(f"{name} left out: {type(error).__name__}: {error}"[:200], file=sys.stderr)
            del calls[name]
    event = cupy.cuda.Event
    for _ in range(args.rounds):
        for name, call in calls.items():  # in turn: what disturbs one disturbs its neighbours
            start, end = event(), event()
            flush.fill(0)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.setdefault(name, []).append(cupy.cuda.get_elapsed_time(start, end))
    return {name: median(found) for name, found in times.items()}


def contenders(cupy: Any, case: dict[str, Any]) -> dict[str, Call]:
    rng = np.random.default_rng(0)
    channels, narrow = case["shape"][1], case["dtype"] == "bfloat16"

    def array(*shape: int) -> Any:
        a = cupy.asarray(rng.standard_normal(min(int(np.prod(shape)), 2**20)).astype(np.float32))
        a = cupy.resize(a, shape)
        return a.astype(import_module("ml_dtypes").bfloat16) if narrow else a

    shape = case["shape"]
    if case["layout"] == "nhwc":
        shape = (shape[0], *shape[2:], channels)
    axis = -1 if case["layout"] == "nhwc" else 1
    x, dy = array(*shape), array(*shape)
    weight, bias = (cupy.asarray(rng.uniform(0.5, 2, channels).astype(np.float32)) for _ in range(2))
    out = cupy.empty_like(x)
    stats = bnkern.batch_stats(x, axis=axis)
    given = {"weight": weight, "bias": bias, "axis": axis, "out": out}
    calls: dict[str, Call] = {
        "inference": lambda: bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var, **given),
        "train": lambda: bnkern.batch_norm_train(x, **given),
        "backward": lambda: bnkern.batch_norm_backward(dy, x, stats, **given),
    }
    found = {"bnkern": calls[case["op"]], "limit": limit(cupy, case["op"], x, dy, out)}
    torch = torch_or_none()
    if torch is not None:
        found["torch"] = of_torch(torch, case["op"], x, dy, weight, bias, stats, axis, narrow)
    if not narrow:
        found["CuPy expressions"] = expressions(cupy, case["op"], x, dy, weight, bias, stats, axis)
    return found


def limit(cupy: Any, op: str, x: Any, dy: Any, out: Any) -> Call:
    """A copy of x's bytes, or dx = x + dy on the bits as integers: the same traffic whatever the type."""
    if op != "backward":
        runtime = cupy.cuda.runtime
        kind = runtime.memcpyDeviceToDevice

        def copy() -> None:
            runtime.memcpyAsync(out.data.ptr, x.data.ptr, x.nbytes, kind, cupy.cuda.get_current_stream().ptr)

        return copy
    words = np.uint32 if x.nbytes % 4 == 0 else np.uint16
    a, b, c = (v.reshape(-1).view(words) for v in (x, dy, out))
    triad = cupy.ElementwiseKernel("T a, T b", "T c", "c = a + b", "bn_triad")
    return lambda: triad(a, b, c)


def of_torch(
    torch: Any, op: str, x: Any, dy: Any, weight: Any, bias: Any, stats: Any, axis: int, narrow: bool
) -> Call:
    """PyTorch's batch norm on the same memory; channels last is its memory format of that name."""

    def tensor(a: Any, whole: bool = True) -> Any:
        t = torch.from_dlpack(a.view(np.int16)).view(torch.bfloat16) if narrow and whole else torch.from_dlpack(a)
        return t.movedim(-1, 1) if whole and axis == -1 and t.ndim > 2 else t

    norm = torch.nn.functional.batch_norm
    t, dt = tensor(x), tensor(dy)
    w, b, mean, var = (tensor(a.astype(np.float32), False) for a in (weight, bias, *stats[:2]))
    if op == "inference":
        return lambda: norm(t, mean, var, w, b)
    if op == "train":
        return lambda: norm(t, None, None, w, b, training=True)
    inputs = [v.detach().requires_grad_() for v in (t, w, b)]
    y = norm(inputs[0], None, None, *inputs[1:], training=True)
    return lambda: torch.autograd.grad(y, inputs, dt, retain_graph=True)


def expressions(cupy: Any, op: str, x: Any, dy: Any, weight: Any, bias: Any, stats: Any, axis: int) -> Call:
    """The formulas as one would write them with CuPy."""
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    column = [1] * x.ndim
    column[axis] = -1
    w, b, mean, var = (a.astype(np.float32).reshape(column) for a in (weight, bias, *stats[:2]))

    def affine(mean: Any, var: Any) -> Any:
        return (x - mean) * (w / cupy.sqrt(var + 1e-5)) + b

    def backward() -> Any:
        invstd = 1 / cupy.sqrt(var + 1e-5)
        xhat = (x - mean) * invstd
        dbias, dweight = dy.sum(others, keepdims=True), (dy * xhat).sum(others, keepdims=True)
        n = np.float32(x.size // weight.size)
        return (dy - dbias / n - xhat * (dweight / n)) * (w * invstd), dweight, dbias

    return {
        "inference": lambda: affine(mean, var),
        "train": lambda: affine(x.mean(others, keepdims=True), x.var(others, keepdims=True)),
        "backward": backward,
    }[op]


def small_calls(cupy: Any, rounds: int) -> list[dict[str, Any]]:
    """Microseconds of the host for a call of 2x32x14x14 with new results, kernels and scratch in place."""
    x = cupy.ones((2, 32, 14, 14), np.float32)
    stats = bnkern.batch_stats(x)
    calls: dict[str, Call] = {
        "inference": lambda: bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var),
        "train": lambda: bnkern.batch_norm_train(x),
        "backward": lambda: bnkern.batch_norm_backward(x, x, stats),
    }
    found = []
    for op, call in calls.items():
        times = []
        for _ in range(rounds):
            cupy.cuda.get_current_stream().synchronize()
            start = time.perf_counter()
            for _ in range(IN_A_ROW):
                call()
            times.append((time.perf_counter() - start) / IN_A_ROW)
        found.append({"op": op, "microseconds": 1e6 * median(times)})
    return found


# --- tables ---------------------------------------------------------------------------------------


def line_of(case: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {value:.3f}" for name, value in case["milliseconds"].items())
    return f"{case['op']:<10}{case['layout']} {case['dtype']:<9}{case['layer']:<22}{times} ms"


def mean_of(found: list[dict[str, Any]], a: str, b: str) -> tuple[float | None, float | None]:
    """Geometric mean, and the greatest, of how many times as long `a` takes as `b`."""
    ratios = [m[a] / m[b] for m in (case["milliseconds"] for case in found) if a in m and b in m]
    return (exp(sum(map(log, ratios)) / len(ratios)), max(ratios)) if ratios else (None, None)


def render(report: dict[str, Any]) -> str:
    told = report["machine"]
    facts = ", ".join(f"{name} {told[name]}" for name in ("driver", "cupy", "torch"))
    title = f"# bnkern {told['bnkern']} on {told['device']}, {told['date']}"
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in report["cases"]:
        if case["size"] >= tables.BIG:
            groups.setdefault(f"{case['op']}, {case['layout']}, {case['dtype']}", []).append(case)
    rows = []
    for name, found in groups.items():
        ratios = [*mean_of(found, "bnkern", "limit"), *mean_of(found, "torch", "bnkern")[:1]]
        rows.append([name, *map(tables.number, [*ratios, mean_of(found, "CuPy expressions", "bnkern")[0]])])
    header = ["16 MB and more", "times the limit", "worst", "PyTorch takes, times bnkern", "CuPy expressions take"]
    names = ["bnkern", "limit", "torch", "CuPy expressions"]
    each = []
    for case in report["cases"]:
        times = [case["milliseconds"].get(name) for name in names]
        label = " ".join(case[key] for key in ("layer", "op", "layout", "dtype"))
        each.append([label, *("-" if t is None else f"{t:.3f}" for t in times)])
    small = [[entry["op"], f"{entry['microseconds']:.1f}"] for entry in report["small"]]
    parts = [
        title,
        f"{facts}. shapes.txt at four times the batch.",
        tables.table(header, rows),
        "## Host time of a small call, 2x32x14x14, microseconds",
        tables.table(["op", "bnkern"], small),
        "## Every case, milliseconds",
        tables.table(["case", *names], each),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()

"""Times every slot of every table alone: nanoseconds for each element, in cache and from memory.

    python benchmarks/kernels.py [--dtype f32 ...] [--level x86_v4 ...] [--slot normalise ...]

One thread, no driver: what a kernel can do by itself. The best of several rounds, because others share the machine.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from helpers import slots, support

# slot, variant: (activation, operands beside the output, flags)
ELEMENTWISE = {
    "normalise": ("identity", ["x"], 0),
    "normalise relu": ("relu", ["x"], 0),
    "normalise residual": ("identity", ["x", "residual"], 0),
    "normalise residual relu": ("relu", ["x", "residual"], 0),
    "input_grad": ("identity", ["dy", "x"], 0),
    "input_grad relu": ("relu", ["dy", "x"], 0),
    "input_grad relu y dresidual": ("relu", ["dy", "x", "y", "dresidual"], 0),
    "input_grad frozen": ("identity", ["dy"], slots.FROZEN),
    "input_grad frozen relu": ("relu", ["dy", "x"], slots.FROZEN),
}
# name: rows, channels, width, flags. In cache (L2 and below), and streamed from and to memory.
SPANS = {
    "channels, long rows": (4, 8, 784, 0),
    "channels, short rows": (4, 64, 49, 0),
    "tile": (64, 1, 256, slots.TILE),
    "channels, streamed": (64, 64, 784, slots.STREAM),
    "short rows, streamed": (64, 1024, 49, slots.STREAM),
    "tile, streamed": (12_544, 1, 256, slots.TILE | slots.STREAM),
}
REDUCTIONS = {"moments": None, "reduce": "identity", "reduce relu": "relu", "reduce relu y": "relu"}
MATRICES = {"rows of a block": None, "256 columns": (2048, 256), "64 columns": (2048, 64), "3 columns": (2048, 3)}


def best(work, elements, seconds=0.05):
    """Nanoseconds an element: the fastest round, each long enough for the clock."""
    work()
    start = time.perf_counter()
    work()
    repeats = max(1, int(2e-4 / max(time.perf_counter() - start, 1e-7)))
    fastest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        fastest = min(fastest, (time.perf_counter() - start) / repeats)
    return 1e9 * fastest / elements


def elementwise_work(table, dtype, name, shape):
    activation, operands, more = ELEMENTWISE[name]
    rows, channels, width, flags = shape
    rng, stride = np.random.default_rng(0), channels * width
    arrays = {a: slots.copy(slots.numbers(dtype, rows * stride, rng)) for a in operands if a != "dresidual"}
    out, second = (slots.aligned(rows * stride, slots.DTYPES[dtype]) for _ in range(2))
    coef = slots.coefs_of(dtype, width if flags & slots.TILE else channels, rng)
    call = getattr(table, name.split()[0])
    how = {"rows": rows, "channels": channels, "width": width, "stride": stride, "flags": flags | more}
    how["activation"] = slots.ACTIVATIONS[activation]
    second = second if "dresidual" in operands else None
    return lambda: slots.elementwise(call, arrays, out, second, coef, **how)


def reduction_work(table, dtype, name, shape):
    rng = np.random.default_rng(0)
    activation = slots.ACTIVATIONS[REDUCTIONS[name] or "identity"]
    rows, width = shape or (slots.BLOCK, 1)
    x, dy, y = (slots.copy(slots.numbers(dtype, rows * width, rng)) for _ in range(3))
    y = y if name.endswith(" y") else None
    coef = slots.coefs_of(dtype, width, rng)
    if shape is None and name == "moments":
        return lambda: slots.moments_cf(table, x, [(0, rows, x)])
    if shape is None:
        return lambda: slots.reduce_cf(table, rows, [(0, rows, x, dy, y)], coef, activation)
    if name == "moments":
        return lambda: slots.columns(table, rows, width, x)
    return lambda: slots.columns(table, rows, width, x, dy, y, coef, activation)


def measurements(wanted=lambda name: True):
    """(name, work to time for a table and a storage type, elements)."""
    for name in filter(wanted, ELEMENTWISE):
        for where, shape in SPANS.items():
            yield f"{name}: {where}", elementwise_work, (name, shape), shape[0] * shape[1] * shape[2]
    for name in filter(wanted, REDUCTIONS):
        for where, shape in MATRICES.items():
            yield f"{name}: {where}", reduction_work, (name, shape), np.prod(shape or (slots.BLOCK, 1))


def main():
    levels = support.processor_levels() or ["baseline"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", default=list(slots.DTYPES), choices=slots.DTYPES)
    parser.add_argument("--level", nargs="+", default=levels, choices=["reference", *levels])
    parser.add_argument("--slot", nargs="+", default=[""], help="beginnings of names: normalise, reduce, ...")
    chosen = parser.parse_args()
    columns = [(dtype, level) for dtype in chosen.dtype for level in chosen.level]
    print(f"{'ns / element':46}", *(f"{dtype + ' ' + level:>14}" for dtype, level in columns))
    for name, make, arguments, elements in measurements(lambda name: name.startswith(tuple(chosen.slot))):
        times = [best(make(slots.table(d, level), d, *arguments), elements) for d, level in columns]
        print(f"{name:46}", *(f"{t:14.4f}" for t in times), flush=True)


if __name__ == "__main__":
    main()

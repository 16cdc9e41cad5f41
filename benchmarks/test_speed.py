"""The suite: a test shows one line, a library's call for an operation on a layer. None gates on time.

The calls of a case are timed in turn (bnkern.cli.measure.measure), by the test that comes first; the others show
their part. pytest-benchmark gets the samples through a clock that replays them.
"""

import onednn
import pytest
import rivals
import small
import suite
from layers import Layer

import bnkern
from bnkern._call import OPERATIONS
from bnkern._dtypes import ITEMSIZE
from bnkern._native import kernels
from bnkern.cli.measure import OPS

WHO = ["bnkern", "limit", "bnkern fresh", "torch", "torch fresh", "jax", "onnxruntime", "numpy"]
WHO += [f"{build} {layout}" for build in onednn.BUILDS for layout in onednn.LAYOUTS]

_now = 0.0


def replayed():
    """The clock that pytest-benchmark reads."""
    return _now


def advance(seconds):
    global _now
    _now += seconds


def show(benchmark, group, samples, who, info):
    """Hand the samples of `who` to pytest-benchmark; skip by name what is not there."""
    name = who.split()[0].rstrip(",")
    if who not in samples:
        absent = rivals.missing(name) if name in rivals.RIVALS else None
        pytest.skip(absent or f"{who} has no such call")
    left = iter(samples[who])
    benchmark.group = group
    benchmark.extra_info |= info
    benchmark.pedantic(lambda: advance(next(left)), rounds=len(samples[who]))


def median(values):
    return sorted(values)[len(values) // 2]


@pytest.mark.benchmark(timer=replayed)
@pytest.mark.parametrize("who", WHO)  # the first decorator varies fastest: a case is measured once
@pytest.mark.parametrize("op", list(OPS))
def test_layer(benchmark, samples, problem, op, who):
    found = samples(problem, op, suite.calls)
    bytes_least = OPERATIONS[op].least * problem.layer.size * _itemsize(problem.dtype)
    info = {"bytes": bytes_least, "isa": kernels.level(), "threads": bnkern.get_num_threads()}
    seconds = median(found.get(who, [0.0]))
    if seconds:
        info["GB/s"] = round(bytes_least / seconds / 1e9, 2)
        info["ratio to limit"] = round(seconds / median(found["limit"]), 3)
    show(benchmark, f"{op} {problem.layout} {problem.dtype}", found, who, info)


@pytest.mark.benchmark(timer=replayed)
@pytest.mark.parametrize("who", ["bnkern", "bnkern, slices", "torch"])
@pytest.mark.parametrize("op", small.OPS)
@pytest.mark.parametrize("shape", small.SHAPES, ids=str)
def test_small(benchmark, samples, shape, op, who):
    problem = suite.Problem(Layer(f"small/{shape}", shape, 1), "nhwc" if len(shape) == 2 else "nchw", "float32")
    found = samples(problem, op, small.calls_of)
    info = {"isa": kernels.level(), "threads": bnkern.get_num_threads()}
    show(benchmark, f"small calls, {op}", found, who, info)


def _itemsize(dtype):
    return ITEMSIZE[dtype]

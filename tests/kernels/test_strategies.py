"""Every strategy and every store path on small arrays, forced: the bits are those of the plan that is chosen anyway.

What a machine's caches would choose is therefore tested on every machine. Operands lie in memory in ways of their own,
so that a step taken from another operand is seen.
"""

import itertools

import numpy as np
import pytest
from helpers import cases, native
from helpers.compare import same_bits

from bnkern._native import plan

# Rows around the lanes, a cache line, a sub-block and a block; channels that leave a rest in groups and panels.
CF_SHAPES = [
    *[(3, 5, 1), (9, 7, 3), (700, 3, 7), (5, 6, 15), (5, 37, 16), (150, 11, 31)],
    *[(4, 7, 33), (3, 5, 130), (2, 3, 519), (3, 2, 2100)],
]
CL_SHAPES = [(5, 3), (1, 40), (70, 17), (300, 5), (33, 64), (2100, 3), (9, 130), (5, 2100), (530, 70), (6, 544)]
CF = [f"{r} + {e}" for r in ("groups", "slabs") for e in ("runs", "tiled rows")] + ["slabs + flat rows"]
CL = ["panels + rows", "panels + flat rows", "columns + rows"]
SMALL = {"grain": 1, "group_bytes": 4096}  # threads and groups on small arrays
STREAM = {"cached": 1 << 60, "streamed": 0}
PROBLEMS = [
    *((shape, 1, strategy) for shape in CF_SHAPES for strategy in CF),
    *((shape, -1, strategy) for shape in CL_SHAPES for strategy in CL),
]


def operands(case):
    """Everything that the passes read, as of an earlier call."""
    rng = np.random.default_rng(7)
    y = case.residual.copy()
    y.flat[::3] = 0
    names = ("mean", "var", "sum_dy", "sum_dy_xhat")
    saved = {name: rng.uniform(0.5, 2, case.channels) for name in names}
    large = {"x": case.x, "dy": case.dy, "residual": case.residual, "y": y}
    return large | saved | {"weight": case.weight, "bias": case.bias, "axis": case.axis, "count": 12}


CALLS = [  # passes, what is replaced among the operands, dresidual
    ("stats", {}, False),
    ("train", {"activation": 1}, False),
    ("train", {"residual": None}, False),
    ("normalise", {"activation": 1}, False),
    ("reduce", {"activation": 1}, False),
    ("reduce", {"activation": 1, "y": None}, False),
    ("backward", {"activation": 1}, True),
    ("backward", {}, False),
    ("backward", {"frozen": True, "activation": 1, "y": None}, True),
    ("input_grad", {"activation": 1}, True),
    ("input_grad", {"frozen": True}, False),
    ("input_grad", {"frozen": True, "activation": 1}, True),
]


def results(given, place=lambda a: a.copy(), threads=1):
    """Everything that the calls compute, with each output where `place` puts an array of NaN."""
    found = {}
    for k, (passes, replaced, dresidual) in enumerate(CALLS):
        writes = passes not in ("stats", "reduce")
        out = place(cases.of_nan(given["x"])) if writes else None
        some = native.run(passes, threads=threads, dresidual=dresidual, **given | replaced | {"out": out})
        assert some is not None, "refused"
        found |= {f"{k} {passes} {name}": value for name, value in some.items() if value is not None}
    return found


def differing(found, want):
    assert found.keys() == want.keys()
    return [name for name in want if not same_bits(np.ascontiguousarray(found[name]), want[name])]


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis", "strategy"), PROBLEMS, ids=cases.label)
def test_a_forced_strategy_changes_no_bit(shape, axis, strategy, dtype):
    given = operands(cases.make(shape, axis, dtype))
    want = results(given)
    for (stores, stream_bytes), threads in itertools.product(STREAM.items(), (1, 3)):
        for offset in (0, 8, 40):  # bytes from a cache line
            with plan.forced(strategy=strategy, stream_bytes=stream_bytes, **SMALL):
                found = results(given, lambda a, offset=offset: cases.place(a, offset), threads)
            assert differing(found, want) == [], (stores, threads, offset)


def padded(a, k, gap):
    """`a` in memory with gaps: k elements more than there are along the axis `gap`."""
    buffer = np.full([n + k if d == gap % a.ndim else n for d, n in enumerate(a.shape)], 7, a.dtype)
    inside = buffer[tuple(slice(0, n) for n in a.shape)]
    inside[...] = a
    return inside


GAPPED = [
    *[((3, 4, 5, 16), 1), ((3, 4, 5, 9), 1), ((2, 3, 4, 130), 1)],
    *[((4, 5, 6, 7), -1), ((40, 60, 3), -1), ((3, 50, 65), -1)],
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", [*CF, *CL])
@pytest.mark.parametrize("gap", [-1, -2])
@pytest.mark.parametrize(("shape", "axis"), GAPPED, ids=cases.label)
def test_every_operand_has_its_own_steps(shape, axis, gap, strategy, dtype):
    """Nothing between or beyond the elements of an output is written, nothing but elements is read."""
    given = operands(cases.make(shape, axis, dtype))
    want = results(given)
    apart = {name: padded(given[name], k, gap) for k, name in enumerate(("x", "dy", "residual", "y"), 1)}
    buffers = []

    def place(a):
        inside = padded(a, 6, gap)
        buffers.append((inside.base, inside))
        return inside

    for stream_bytes, threads in itertools.product(STREAM.values(), (1, 2)):
        with plan.forced(strategy=strategy, stream_bytes=stream_bytes, **SMALL):
            found = results(given | apart, place, threads)
        assert differing(found, want) == [], (stream_bytes, threads)
    for buffer, inside in buffers:
        inside[...] = 7
        assert (buffer == 7).all(), "written outside of out"


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("axis", [1, -1])
def test_a_streamed_row_is_written_to_its_last_column(axis, dtype):
    """At every width and from every place in memory: what lies before the first and after the last whole cache line."""
    for width in (63, 64, 65, 127, 128, 129, 200, 257):
        case = cases.make((3, 5, width) if axis == 1 else (7, width), axis, dtype)
        given = operands(case) | {"residual": None}
        want = native.run("normalise", **given)["out"]
        for offset in range(0, 64, case.x.itemsize):
            out = cases.place(cases.of_nan(case.x), offset)
            with plan.forced(stream_bytes=0):
                native.run("normalise", **given | {"out": out})
            assert same_bits(out, want), (width, offset)


def test_a_group_needs_less_scratch_than_there_is():
    """Many blocks in one group: results of the blocks lie in a thread's own scratch."""
    case = cases.make((70, 3, 2000), 1)
    given = operands(case)
    want = results(given)
    with plan.forced(strategy="groups", group_bytes=1 << 30, grain=1):
        assert differing(results(given, threads=2), want) == []

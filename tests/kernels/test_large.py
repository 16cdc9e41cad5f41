"""Arrays beyond the caches, which kernels write past them: the same results as in small parts, from any
place in memory.

What the parts give has been checked elsewhere against the oracle; elements do not depend on each other once
statistics and sums are known, so the whole must have the parts' bits.
"""

import itertools

import numpy as np
import pytest
from helpers import cases
from helpers.compare import assert_stats_close, same_bits

import bnkern

pytestmark = pytest.mark.parametrize(("shape", "axis"), cases.HUGE, ids=cases.label)


def in_parts(case, stats, sums):
    """y, dx and dresidual from parts of a few hundred KB each."""
    how = {"axis": case.axis, "activation": "relu"}
    vectors = case.weight, case.bias
    ys, dxs, masked = [], [], []
    rows = max(1, len(case.x) * 60_000 // case.x.size)
    for k in range(0, len(case.x), rows):
        x, dy, r = (a[k : k + rows] for a in (case.x, case.dy, case.residual))
        ys.append(
            bnkern.batch_norm_inference(
                x, running_mean=stats.mean, running_var=stats.var, weight=vectors[0], bias=vectors[1], residual=r, **how
            )
        )
        dxs.append(bnkern.backward_apply(dy, x, stats, sums, weight=vectors[0], bias=vectors[1], y=ys[-1], **how))
        grads = bnkern.batch_norm_backward(
            dy, x, stats, weight=vectors[0], bias=vectors[1], y=ys[-1], frozen=True, needs=("residual",), **how
        )
        masked.append(grads.dresidual)
    assert len(ys) > 2
    return np.concatenate(ys), np.concatenate(dxs), np.concatenate(masked)


def test_the_whole_has_the_bits_of_its_parts(shape, axis):
    case = cases.make(shape, axis)
    whole = cases.essentials(case)
    stats = bnkern.BatchStats(whole["mean"], whole["var"], case.x.size // case.channels)
    assert_stats_close(stats, case.x, axis)
    how = {"axis": axis, "activation": "relu", "y": whole["y"]}
    sums = bnkern.backward_reduce(case.dy, case.x, stats, weight=case.weight, bias=case.bias, **how)
    y, dx, dresidual = in_parts(case, stats, sums)
    assert same_bits(whole["y"], y)
    assert same_bits(whole["dx"], dx)
    assert same_bits(whole["dresidual"], dresidual)


def test_place_in_memory_threads_and_out_change_no_bit(shape, axis):
    case = cases.make(shape, axis)
    want = cases.essentials(case)
    places = itertools.cycle([24, 44, 0, 60, 4, 36])  # bytes from a cache line, another one for each output
    for threads, offset in [(1, 4), (2, 8), (3, 16), (7, 32), (2, 60)]:
        moved = case.map(lambda a, offset=offset: cases.place(a, offset))
        with bnkern.threads(threads):
            got = cases.essentials(moved, out=lambda like: cases.place(cases.of_nan(like), next(places)))
        assert [key for key in want if not same_bits(got[key], want[key])] == [], (threads, offset)


def test_in_place(shape, axis):
    case = cases.make(shape, axis)
    want = cases.essentials(case)
    x, dy = case.x.copy(), case.dy.copy()
    how = {"axis": axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(x, weight=case.weight, bias=case.bias, residual=case.residual, out=x, **how)
    assert same_bits(y, want["y"])
    dx = bnkern.batch_norm_backward(dy, case.x, stats, weight=case.weight, bias=case.bias, y=y, out=dy, **how).dx
    assert same_bits(dx, want["dx"])

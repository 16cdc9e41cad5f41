"""The launch geometry: pure arithmetic, so tested for arrays that no machine here could hold."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bnkern.engines.cuda.plan import (
    ELEMENTWISE,
    MERGE,
    REDUCTION,
    THREADS,
    WARPS,
    Limits,
    geometry,
    launches,
    normal_form,
    shared_bytes,
)  # fmt: skip

ALL = REDUCTION | MERGE | ELEMENTWISE
H100_LIKE = Limits(blocks=2 * 132, shared=112 * 1024, cooperative=True)
SHAPES = Path(__file__).parents[3] / "benchmarks" / "shapes.txt"
sizes = st.integers(1, 2**20)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_normal_form_of_any_order_of_axes(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    x = np.empty([shape[a] for a in order], np.float32).transpose(np.argsort(order))
    assert x.shape == tuple(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    outer, channels, inner = normal_form(x.shape, x.strides, 4, axis)
    assert outer * channels * inner == x.size
    if shape[axis] > 1:
        assert channels == shape[axis]
        assert inner * 4 == x.strides[axis]


def test_normal_form_of_gaps_is_none():
    x = np.empty((4, 6, 8), np.float32)
    for view in (x[:, :, ::2], x[:, :3], x[::-1], np.broadcast_to(x[0], x.shape)):
        assert normal_form(view.shape, view.strides, 4, 1) is None
    assert normal_form(x.shape, x.strides, 4, 1) == (4, 6, 8)


@given(sizes, sizes, sizes, st.sampled_from([2, 4, 8]), st.integers(0, 7))
def test_every_slot_has_its_unit(outer, channels, inner, itemsize, offset):
    assume(outer * channels * inner < 2**40)  # terabytes
    v = 16 // itemsize
    offset %= v
    g = geometry(outer, channels, inner, itemsize, offset)
    assert g.size == outer * channels * inner
    if g.layout == "cf":
        assert g.row_slots * v >= inner
        assert g.segments * g.segment >= g.rows * g.row_slots > (g.segments - 1) * g.segment
        assert g.units == channels * g.segments
        assert g.steps * 4 * 32 == g.segment
        assert g.partials == g.segments
    else:
        width = channels * inner
        assert g.row_slots * v % width == 0
        assert g.rows * g.row_slots * v >= offset + g.size
        assert g.segments * g.segment >= g.rows > (g.segments - 1) * g.segment
        assert g.columns * g.lines <= THREADS
        assert g.steps * 4 * g.lines == g.segment
        assert g.partials * channels == g.segments * g.row_slots * v
    assert g.segment < 2**31
    for phases in (REDUCTION, REDUCTION | MERGE, ALL, ELEMENTWISE):
        for step in launches(g, phases, 2, shared_bytes(g.layout, itemsize), H100_LIKE):
            assert 1 <= step.grid < 2**31
            assert step.shared <= H100_LIKE.shared
            assert step.grid <= H100_LIKE.blocks or not step.cooperative


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_division_by_multiplication(d, n):
    g = geometry(1, 1, 4 * d, 4, 0)
    assert g.row_slots == d
    if d > 1:
        assert n * g.magic >> 64 == n // d


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_real_layers_fill_the_chip(itemsize, last):
    """At four times the batch, where there is enough to do, each multiprocessor has several blocks' worth of units."""
    for line in SHAPES.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, shape, _ = line.split()
        n, c, *spatial = map(int, shape.split(","))
        n, inner = 4 * n, int(np.prod(spatial, dtype=int))
        g = geometry(n * inner, c, 1, itemsize, 0) if last else geometry(n, c, inner, itemsize, 0)
        blocks = g.units // (WARPS if g.layout == "cf" else 1)
        if g.size * itemsize >= 16 * 2**20:
            assert blocks >= 132, (name, g)
        assert g.partials <= 8192, (name, g)


def test_what_fits_is_kept_on_chip():
    small, large = geometry(4, 64, 56 * 56, 4, 0), geometry(128, 64, 112 * 112, 4, 0)
    (step,) = launches(small, ALL, 1, 128, H100_LIKE)
    assert step.keep * step.grid * WARPS * 32 * 16 >= small.size * 4
    (step,) = launches(large, ALL, 1, 128, H100_LIKE)
    assert 0 < step.keep * 4096 <= H100_LIKE.shared


def test_without_a_barrier_there_are_three_launches():
    steps = launches(geometry(2, 3, 64, 4, 0), ALL, 1, 128, H100_LIKE._replace(cooperative=False))
    assert [s.phases for s in steps] == [REDUCTION, MERGE, ELEMENTWISE]
    assert not any(s.cooperative or s.keep for s in steps)

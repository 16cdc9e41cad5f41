"""Plans, without running a kernel: what is chosen for which problem, by name, and that every choice can be forced."""

import itertools
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from helpers import native
from helpers.support import TESTS
from hypothesis import given
from hypothesis import strategies as st

from bnkern._native import cpu
from bnkern._native import plan as plans

CF_STRATEGIES = ["groups + runs", "groups + tiled rows", "slabs + runs", "slabs + tiled rows", "slabs + flat rows"]
CL_STRATEGIES = ["panels + rows", "panels + flat rows", "columns + rows"]
MIB = 1 << 20


def gapless(shape, itemsize):
    """Strides of C order, in bytes."""
    return tuple(itertools.accumulate([*shape[:0:-1]], lambda step, n: step * max(n, 1), initial=itemsize))[::-1]


def plan(shape, *, last=False, itemsize=4, op="train", threads=2, frozen=False, strides=None):
    """The plan of a gapless array with `shape` in memory order: channels second, or last."""
    axis = -1 if last else 1
    return plans.facts(shape, strides or gapless(shape, itemsize), axis, itemsize, native.PASSES[op], threads, frozen)


def layers():
    lines = [
        line.partition("#")[0].split()
        for name in ("shapes.txt", "odd_shapes.txt")
        for line in Path(TESTS.parent, "benchmarks", name).read_text().splitlines()
    ]
    return {words[0]: tuple(map(int, words[1].split(","))) for words in lines if words}


LAYERS = layers()


def in_memory(shape, last):
    return (shape[0], *shape[2:], shape[1]) if last else shape


def check(found, shape, channels, threads):
    """What holds for every plan."""
    assert 1 <= found["threads"] <= min(threads, 512)
    assert 1 <= found["group"] <= -(-channels // 16) * 16, "a panel may be rounded up to whole vectors"
    assert found["bytes_moved"] >= found["bytes_least"] > 0
    parts = found["strategy"].split(" + ")
    assert ("rows" in parts or "flat rows" in parts) == (found["chunk"] > 0)
    assert ("flat rows" in parts) == (found["flat"] > 0)
    if found["flat"]:
        assert found["period"] % channels == found["flat"] % found["period"] == 0
        assert found["tile_width"] >= found["flat"] + found["period"]
    assert found["joined"] in (0, 256), "runs begin with lane 0"
    if found["strategy"].startswith(("groups", "slabs")):
        assert found["layout"] == "channels first"
    if found["strategy"] in ("runs", "slabs + runs"):
        assert found["piece"] >= 1 << 12
    if found["strategy"] in ("tiled rows", "slabs + tiled rows"):
        assert 1 <= found["row_parts"] <= shape[0], "no unit without rows"


@pytest.mark.parametrize("op", native.PASSES)
@pytest.mark.parametrize("last", [False, True], ids=["cf", "cl"])
@pytest.mark.parametrize("layer", LAYERS)
def test_real_layers(layer, last, op):
    shape = LAYERS[layer]
    for itemsize, threads in itertools.product((2, 4, 8), (1, 2, 64)):
        found = plan(in_memory(shape, last), last=last, itemsize=itemsize, op=op, threads=threads)
        check(found, shape, shape[1], threads)
        assert (found["stores"] is None) == (op in ("stats", "reduce"))


# One problem for each strategy, by what makes it the right one.
CHOSEN = {
    "groups + runs": plan((32, 64, 56, 56)),
    "groups": plan((32, 64, 56, 56), op="stats"),
    "runs": plan((32, 64, 56, 56), op="normalise"),
    "groups + tiled rows": plan((4, 32, 3, 3)),  # rows of nine, in one thread
    "slabs + runs": plan((8, 3, 512, 512)),  # three channels cannot be shared out evenly
    "slabs": plan((1, 1, 300_000), op="reduce"),
    "slabs + flat rows": plan((64_000, 16, 7)),  # a group's rows would be few bytes, far apart
    "slabs + tiled rows": plan((4_000, 4096, 7)),  # all channels' coefficients would leave the cache
    "tiled rows": plan((64, 4096, 9), op="input_grad"),
    "panels + rows": plan((600, 20_000), last=True),  # a coefficient for each column is too wide to be laid out flat
    "rows": plan((4, 20_000), last=True, op="normalise"),
    "panels + flat rows": plan((32, 56, 56, 64), last=True),
    "flat rows": plan((32, 56, 56, 64), last=True, op="input_grad"),
    "panels": plan((32, 56, 56, 64), last=True, op="stats"),
    "columns + rows": plan((128, 8192), last=True),  # few rows: a panel stays in its thread's caches
    "columns": plan((128, 8192), last=True, op="stats"),
}


@pytest.mark.parametrize("strategy", CHOSEN)
def test_each_strategy_is_chosen_by_a_problem(strategy):
    assert CHOSEN[strategy]["strategy"] == strategy


def test_rows_between_which_something_lies_are_not_taken_flat():
    shape = (32, 56, 56, 64)
    assert plan(shape, last=True)["strategy"] == "panels + flat rows"
    cropped = (56 * 60 * 256, 60 * 256, 256, 4)
    assert plan(shape, last=True, strides=cropped)["strategy"] == "panels + rows"
    assert plan(shape, last=True, strides=cropped)["group"] <= 128, "copies of a panel stay in L2"


def test_short_rows_between_which_something_lies_are_not_tiled():
    assert plan((4, 32, 9))["strategy"] == "groups + tiled rows"
    assert plan((4, 32, 9), strides=(32 * 12 * 4, 12 * 4, 4))["strategy"] == "groups + runs"
    assert plan((64, 512, 9))["strategy"] == "slabs + flat rows"
    assert plan((64, 512, 9), strides=(513 * 9 * 4, 9 * 4, 4))["strategy"] == "slabs + tiled rows"


@pytest.mark.parametrize("strategy", [*CF_STRATEGIES, "slabs", "groups", "runs", "tiled rows", "flat rows"])
def test_a_strategy_can_be_forced_channels_first(strategy):
    for shape in [(4, 6, 16), (300, 5, 20, 40), (2, 120, 17), (2, 2, 1024)]:
        parts = strategy.split(" + ")
        op = "train" if len(parts) == 2 else "stats" if strategy in ("slabs", "groups") else "normalise"
        with plans.forced(strategy=strategy):
            assert plan(shape, op=op)["strategy"] == strategy


@pytest.mark.parametrize("strategy", [*CL_STRATEGIES, "rows", "flat rows"])
def test_a_strategy_can_be_forced_channels_last(strategy):
    for shape in [(4, 6, 16), (300, 40, 40, 5), (2, 8193)]:
        possible = shape[-1] < 1024 or "flat" not in strategy
        with plans.forced(strategy=strategy):
            found = plan(shape, last=True, op="train" if "+" in strategy else "normalise")
        assert (found["strategy"] == strategy) == possible


def test_what_the_layout_does_not_allow_is_not_forced():
    with plans.forced(strategy="groups + tiled rows"):
        assert plan((64, 4, 4096))["strategy"] == "groups + runs", "rows longer than a tile"
        assert plan((640, 48), last=True)["strategy"] == "panels + flat rows"


def test_where_outputs_are_streamed():
    shape = (32, 64, 56, 56)
    assert plan(shape)["stores"] == "non-temporal"
    assert plan((2, 64, 14, 14))["stores"] == "cached"
    for last in (False, True):
        with plans.forced(stream_bytes=0):
            assert plan((2, 3, 4), last=last)["stores"] == "non-temporal"
        with plans.forced(stream_bytes=1 << 40):
            assert plan(in_memory(shape, last), last=last)["stores"] == "cached"
    with plans.forced(stream_bytes=1024):
        assert plan((1, 8, 32))["stores"] == "non-temporal"
        assert plan((1, 8, 31))["stores"] == "cached"
        assert plan((4, 32), last=True)["stores"] == "non-temporal", "channels last: from half of that on"
        assert plan((4, 31), last=True)["stores"] == "cached"


def test_threads_are_few_where_there_is_little_to_do():
    assert plan((2, 32, 14, 14), threads=8)["threads"] == 1
    assert plan((2, 64, 16, 16), threads=8)["threads"] == 2
    assert plan((32, 64, 56, 56), threads=8)["threads"] == 8
    assert plan((32, 64, 56, 56), threads=10**6)["threads"] == min(512, 32 * 64 * 56 * 56 >> 14)
    with plans.forced(grain=1):
        assert plan((2, 32, 14, 14), threads=8)["threads"] == 8
        assert plan((1, 2, 2), threads=8)["threads"] == 4
    for threads in (0, -5):
        assert plan((32, 64, 56, 56), threads=threads)["threads"] == 1


def test_groups_stay_in_cache_and_are_shared_evenly():
    with plans.forced(stream_bytes=8 * MIB, group_bytes=2 * MIB):
        found = plan((32, 64, 56, 56), threads=2)
        assert found["group"] * 32 * 56 * 56 * 4 <= 2 * MIB
        assert found["from_cache"]
        assert found["bytes_moved"] == found["bytes_least"]
        assert plan((32, 64, 56, 56), threads=64)["group"] == 1
    with plans.forced(group_bytes=0):
        assert plan((32, 64, 56, 56))["group"] == 1


def test_groups_of_a_size_that_threads_can_share():
    for channels in (61, 64, 96, 100, 192, 300, 1000):
        found = plan((32, channels, 56, 56))
        assert found["strategy"] == "groups + runs"
        slowest = ceil(ceil(channels / found["group"]) / 2) * found["group"]
        assert slowest <= 0.55 * channels, (channels, found["group"])


def test_a_group_that_is_fetched_is_small_and_its_strips_are_long():
    found = plan((32, 256, 56, 56))
    assert found["prefetch"] == found["group"] * 56 * 56 * 4, "the same row of the next group"
    assert found["group"] * 32 * 56 * 56 * 4 < 3 * MIB
    assert plan((32, 256, 56, 56), op="backward")["group"] < found["group"], "two arrays have to stay"
    assert plan((79, 256, 28, 28))["group"] * 28 * 28 * 4 >= 32768, "shorter strips are not read at full speed"
    with plans.forced(stream_bytes=1 << 40):
        assert plan((32, 256, 56, 56))["prefetch"] == 0


def test_rows_of_few_channels_are_taken_in_the_order_of_memory():
    for shape in [(10_000, 3, 49), (5_000, 64, 49), (300, 64, 784), (100_000, 16, 7)]:
        assert plan(shape)["strategy"].startswith("slabs")
    assert plan((100_000, 16, 7))["bytes_moved"] == plan((100_000, 16, 7))["bytes_least"] * 3 // 2
    assert plan((79, 64, 784))["strategy"] == "groups + runs"


def test_bytes_by_operation():
    size = 32 * 64 * 56 * 56 * 4
    least = {"stats": 1, "reduce": 2, "normalise": 2, "input_grad": 3, "train": 2, "backward": 3}
    for op, arrays in least.items():
        assert plan((32, 64, 56, 56), op=op)["bytes_least"] == arrays * size
    assert plan((32, 64, 56, 56), op="input_grad", frozen=True)["bytes_least"] == 2 * size
    big = plan((32, 56, 56, 64), last=True, op="backward")
    assert (big["bytes_moved"], big["bytes_least"]) == (5 * size, 3 * size), "both are read twice"


def test_extremes():
    most = 10**9
    for shape in [(1, 1), (1, most), (most, 1), (1, 1, most), (most, 1, 1), (1, most, 1), (30_000, 3, 30_000)]:
        for last, op in itertools.product((False, True), native.PASSES):
            found = plan(shape, last=last, op=op, threads=512)
            check(found, shape, shape[-1] if last else shape[1], 512)
    for shape in [(0, 3), (3, 0), (0, 0, 5), (2, 3, 0)]:
        assert plan(shape)["bytes_least"] == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^shape: expected lengths of an array that can exist"):
        plan((2**40, 2**40))
    with pytest.raises(ValueError, match=r"^shape: expected lengths"):
        plans.facts((2, -3), (12, 4), 1, 4, 1, 1)
    with pytest.raises(ValueError, match=r"^shape: expected 1 to 64 axes"):
        plans.facts((2, 3), (4,), 1, 4, 1, 1)
    with pytest.raises(ValueError, match=r"^shape: expected 1 to 64 axes"):
        plans.facts((), (), 1, 4, 1, 1)
    with pytest.raises(ValueError, match=r"^axis: expected"):
        plans.facts((2, 3), (12, 4), 2, 4, 1, 1)
    with pytest.raises(ValueError, match=r"^itemsize: expected"):
        plans.facts((2, 3), (12, 4), 1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"^passes: expected"):
        plans.facts((2, 3), (12, 4), 1, 4, 3, 1)
    with pytest.raises(ValueError, match=r"^strategy: expected some of groups, slabs"):
        plans.forced(strategy="slabs + wings")
    with pytest.raises(ValueError, match=r"^grain: expected"):
        plans.forced(grain=-1)
    assert plans.facts((2, 3), (24, 8), 1, 4, 1, 1) is None, "neither rows nor channels without gaps"


def test_forcing_ends_with_its_block():
    before = plan((64, 512, 9))
    with plans.forced(strategy="runs", grain=1, stream_bytes=0):
        assert plan((64, 512, 9)) != before
        with plans.forced(grain=1 << 40):
            inner = plan((64, 512, 9))
            assert (inner["threads"], inner["strategy"], inner["stores"]) == (1, "groups + runs", "non-temporal")
    assert plan((64, 512, 9)) == before


def test_the_plan_of_an_array_is_that_of_its_shape_and_strides():
    x = np.zeros((6, 9, 20, 30), np.float64)[::2, :, ::4]
    assert cpu.plan_of(x, 1, cpu.STATS, False, 4) == plans.facts(x.shape, x.strides, 1, 8, cpu.STATS, 4)
    assert cpu.plan_of(x[..., ::2], 1, cpu.STATS, False, 4) is None
    assert cpu.plan_of(x.astype(">f8"), 1, cpu.STATS, False, 4) is None
    with pytest.raises(TypeError, match=r"^x: expected"):
        cpu.plan_of([1.0], 1, cpu.STATS, False, 4)


@given(
    shape=st.lists(st.integers(1, 3000), min_size=2, max_size=4).map(tuple),
    last=st.booleans(),
    itemsize=st.sampled_from([2, 4, 8]),
    op=st.sampled_from(list(native.PASSES)),
    threads=st.integers(1, 600),
    machine=st.fixed_dictionaries(
        {
            "stream_bytes": st.integers(0, 1 << 30),
            "group_bytes": st.integers(0, 1 << 30),
            "grain": st.integers(0, 1 << 20),
            "strategy": st.sampled_from(["", *CF_STRATEGIES, *CL_STRATEGIES]),
        }
    ),
)
def test_any_problem_on_any_machine(shape, last, itemsize, op, threads, machine):
    with plans.forced(**machine):
        found = plan(shape, last=last, itemsize=itemsize, op=op, threads=threads)
        check(found, shape, shape[-1] if last else shape[1], threads)
        assert found == plan(shape, last=last, itemsize=itemsize, op=op, threads=threads)


@pytest.mark.parametrize("shape", [(1, 1, 1 << 36), (1 << 30, 2, 4), (1 << 16, 2, 1 << 20), (64, 300, 50_000)])
def test_a_thread_looks_for_ctrl_c_often(shape):
    """After each unit of work; some milliseconds' worth."""
    found = plan(shape, op="stats")
    if found["strategy"].startswith("slabs"):
        assert found["slab_blocks"] * 2048 * found["slab_channels"] <= 1 << 22
    else:
        assert shape[1] >= found["group"], "a group polls by itself"

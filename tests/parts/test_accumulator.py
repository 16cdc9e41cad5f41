"""StatsAccumulator: the statistics of a stream are those of the whole, for every kind of array, however it is cut."""

import copy
import pickle

import numpy as np
import pytest
from helpers import cases
from helpers.compare import assert_stats_close, same_bits
from helpers.libraries import Backend, of_framework
from hypothesis import given
from hypothesis import strategies as st

import bnkern

EPS = np.finfo(np.float64).eps


def of(parts, axis=1):
    total = bnkern.StatsAccumulator()
    for part in parts:
        total.add(part, axis=axis)
    return total


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100), st.sampled_from(["float32", "float64"]))
def test_any_cut_is_the_whole(counts, dtype):
    x = cases.make((max(sum(counts), 1), 3, 2), 1, dtype).x[: sum(counts)]
    total = of(np.split(x, np.cumsum(counts)[:-1]))
    stats = total.result()
    assert total.count == stats.count == 2 * len(x)
    if len(x):
        assert_stats_close(stats, x, 1)
    else:
        assert stats.mean.tolist() == stats.var.tolist() == [0] * 3


def test_every_kind_of_array(backend):
    case = cases.make((9, 4, 5), 1)
    x = backend.make(case.x)

    def add_up(arrays):
        pieces = [arrays["x"][i : i + 1, ...] for i in range(9)]
        stats = (of(pieces[:2]) + of(pieces[2:])).result()
        assert stats.count == 45
        return stats[:2]

    mean, var = (backend.back(v) for v in backend.run(add_up, {"x": x}))
    want = bnkern.batch_stats(case.x)
    tolerance = 1e-4 if backend in (Backend.JAX_32, Backend.JAX_JIT) else 1e-6
    np.testing.assert_allclose(mean, want.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(var, want.var, rtol=tolerance)


def test_accumulators_merge_and_leave_each_other_alone():
    x = cases.make((40, 3, 7), 1).x
    a, b = of(x[i : i + 1] for i in range(11)), of([x[11:13], x[13:]])
    before = a.result()
    both, three = a + b, sum([a, b, bnkern.StatsAccumulator()])
    assert both.count == three.count == 280
    assert same_bits(both.result().var, three.result().var)
    assert_stats_close(both.result(), x, 1)
    assert same_bits(a.result().mean, before.mean)
    a.merge(b)
    assert same_bits(a.result().mean, both.result().mean)
    assert b.count == 29 * 7
    single = bnkern.StatsAccumulator()
    single.merge(bnkern.batch_stats(x[:5]))
    single.merge(bnkern.batch_stats(x[5:]))
    assert_stats_close(single.result(), x, 1)


def test_what_was_merged_may_be_changed_afterwards():
    """As in a loop whose buffers are used again."""
    total, mean, var = bnkern.StatsAccumulator(), np.zeros(2), np.ones(2)
    for i in range(3):
        mean[:] = i
        total.merge((mean, var, 1))
    var[:] = 7
    assert total.result().mean.tolist() == [1, 1]
    np.testing.assert_allclose(total.result().var, 1 + 2 / 3)


def test_copies_go_ways_of_their_own():
    x = cases.make((20, 3, 7), 1).x
    total = of([x[:4]])
    for twin in (copy.copy(total), copy.deepcopy(total), sum([total])):
        assert twin is not total
        twin.add(x[4:])
        assert (total.count, twin.count) == (28, 140)
    assert same_bits(total.result().var, bnkern.batch_stats(x[:4]).var)


def test_statistics_of_ghost_batches_are_merged_one_by_one():
    x = cases.make((6, 3, 7), 1).x
    _, stats = bnkern.batch_norm_train(x, ghost_batch_size=2)
    total = bnkern.StatsAccumulator()
    with pytest.raises((TypeError, ValueError), match=r"of ghost batches each is a part: zip\(\*stats\)"):
        total.merge(stats)
    with pytest.raises((TypeError, ValueError), match=r"of ghost batches each is a part: zip\(\*stats\)"):
        bnkern.merge_stats([stats])
    for part in zip(*stats, strict=True):
        total.merge(part)
    assert_stats_close(total.result(), x, 1)


def test_result_changes_nothing_and_adding_goes_on():
    x = cases.make((20, 3, 7), 1).x
    total = of([x[:4]])
    first = total.result()
    first.mean[:] = 7
    total.add(x[4:])
    assert_stats_close(total.result(), x, 1)
    assert "140 values of 3 channels" in repr(total)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["copy", "pickle"])
def test_copies_are_independent(copied):
    x = cases.make((20, 3, 7), 1).x
    total = of(x[i : i + 1] for i in range(9))
    other = copied(total)
    assert same_bits(other.result().var, total.result().var)
    other.add(x[9:])
    assert total.count == 63
    assert_stats_close(other.result(), x, 1)


def test_counts_past_2_53_are_exact():
    total, huge = bnkern.StatsAccumulator(), 2**60
    one = bnkern.BatchStats(np.array([1.0, 2]), np.array([3.0, 4]), huge)
    for _ in range(7):
        total.merge(one)
    total.add(np.array([[1.0, 2]]))
    assert total.count == total.result().count == 7 * huge + 1
    np.testing.assert_allclose(total.result().var, one.var, rtol=4 * EPS)


def test_a_million_additions():
    """One value a part, far from zero; a thousand parts, added a thousand times.

    A merge of k <= 8 parts rounds the mean by a unit of itself and by k + 2 of the distances in it (below `reach`), the
    result merges 7 parts of each level at most; M2 is a sum of squares, to which a mean that is off by u adds
    2 u reach. A value goes through log8(1e6) < 7 levels, through one more where accumulators meet, and through the
    result.
    """
    x = 1e3 + np.random.default_rng(0).standard_normal((1000, 2))
    wide = x.astype(np.longdouble)
    mean, var = wide.mean(0), ((wide - wide.mean(0)) ** 2).mean(0)
    thousand, total = bnkern.StatsAccumulator(), bnkern.StatsAccumulator()
    for row in x:
        thousand.merge(bnkern.BatchStats(row, np.zeros(2), 1))
    for _ in range(1000):
        total.merge(thousand)
    stats = total.result()
    assert stats.count == 10**6
    levels, reach = 8, np.ptp(x, axis=0)
    bound = EPS * (levels * (np.abs(mean) + 10 * reach) + (7 * levels + 2) * reach)
    assert np.all(np.abs(stats.mean - mean) <= bound)
    assert np.all(np.abs(stats.var - var) <= EPS * (10 * levels + 7 * levels) * var + 2 * bound * reach)


def test_running_statistics_of_a_data_set():
    """Algorithm 2: population statistics, the variance with m / (m - 1)."""
    x = cases.make((30, 3, 4), 1).x
    total = of([x[:13], x[13:]])
    mean, var = bnkern.update_running(
        total.result(), running_mean=np.zeros(3), running_var=np.ones(3), momentum=None, num_batches=1
    )
    np.testing.assert_allclose(mean, x.mean((0, 2), np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var((0, 2), np.float64, ddof=1), rtol=1e-6)


def test_dask_stays_lazy():
    """The fixture of helpers.libraries refuses to compute; what is added becomes one graph."""
    da = of_framework("dask.array")
    with Backend.DASK.setting():
        x = da.ones((40, 3, 4), chunks=(5, -1, -1))
        total = of([x[:20], x[20:]])
        stats = total.result()
        assert isinstance(stats.mean, da.Array)
        assert stats.count == 160
    assert stats.mean.compute(scheduler="synchronous").tolist() == [1] * 3


def test_what_is_refused_adds_nothing():
    x = cases.make((6, 3, 4), 1).x
    total = of([x])
    for error, words, call in [
        (ValueError, r"x: expected 3 channels, as what was.*, got 6 \(shape", lambda: total.add(x, axis=0)),
        (TypeError, "x: expected an array", lambda: total.add([[1.0]])),
        (TypeError, "x: expected dtype", lambda: total.add(x.astype(int))),
        (TypeError, "add takes x by position and everything else by keyword", lambda: total.add(x, 1)),
        (TypeError, "other: expected a StatsAccumulator or BatchStats, got int 3", lambda: total.merge(3)),
        (ValueError, "other.mean: expected shape", lambda: total.merge(bnkern.batch_stats(x[:, :2]))),
        (TypeError, "unsupported operand", lambda: total + bnkern.batch_stats(x)),
        (ValueError, "at least one call of add", lambda: bnkern.StatsAccumulator().result()),
    ]:  # fmt: skip
        with pytest.raises(error, match=words):
            call()
    assert total.count == 24


def test_kinds_do_not_mix():
    torch = of_framework("torch")
    x = cases.make((6, 3, 4), 1).x
    total = of([x])
    with pytest.raises(TypeError, match="x: expected an array of numpy, as what was added before is, got one of torch"):
        total.add(torch.from_numpy(x))
    other = of([torch.from_numpy(x)])
    with pytest.raises(TypeError, match=r"other\.mean: expected an array of numpy"):
        total.merge(other)
    assert total.count == 24

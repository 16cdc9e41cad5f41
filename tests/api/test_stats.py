"""Statistics and gradients in parts: any split of a batch, merged, is the whole batch to rounding."""

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, assert_close, assert_stats_close, grad_scales, same_bits
from hypothesis import given
from hypothesis import strategies as st

import bnkern

PROBLEMS = [((12, 5, 9), 1), ((12, 7, 5), -1), ((12, 6), 1), ((5, 12, 3, 2), 0)]
FLOAT64 = np.finfo(np.float64).eps


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.SMALL, ids=cases.label)
def test_batch_stats(shape, axis, dtype, memory):
    x = cases.make(shape, axis, dtype).x
    stats = bnkern.batch_stats(cases.LAYOUTS[memory](x), axis=axis)
    assert_stats_close(stats, x, axis)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.LARGE, ids=cases.label)
def test_batch_stats_split_over_threads(shape, axis, dtype):
    x = cases.make(shape, axis, dtype).x
    assert_stats_close(bnkern.batch_stats(x, axis=axis), x, axis)


def test_one_value_per_channel_is_a_legal_part():
    stats = bnkern.batch_stats(np.array([[1.5, -2.0]], np.float32))
    assert stats.mean.tolist() == [1.5, -2.0]
    assert stats.var.tolist() == [0, 0]
    assert stats.count == 1


def test_training_returns_the_same_statistics():
    case = cases.make((12, 5, 9), 1)
    _, trained = bnkern.batch_norm_train(case.x)
    alone = bnkern.batch_stats(case.x)
    assert trained.count == alone.count
    assert same_bits(trained.mean, alone.mean)
    assert same_bits(trained.var, alone.var)


# ---------------------------------------------------------------- merging


def exact_part(x):
    """The float64 statistics of an (n, C) array from the oracle, zeros for no rows."""
    if len(x) == 0:
        return bnkern.BatchStats(np.zeros(x.shape[1]), np.zeros(x.shape[1]), 0)
    mean, var, count = oracle.stats(x, 1, LD)
    return bnkern.BatchStats(mean.astype(np.float64), var.astype(np.float64), count)


def rows(seed, count, offset):
    return offset + np.random.default_rng(seed).standard_normal((count, 3)) * [1, 1e-3, 1e3]


@given(
    st.integers(0, 999),
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e3, -1e6]),
)
def test_merge_stats_is_exact_to_rounding(seed, counts, offset):
    """Chan's merge in float64: each step rounds the mean and the sum of squares by a unit or two of their
    own size.

    A mean that is wrong by a unit u moves the variance by 2 * u * (distance of the parts' means) at most.
    """
    if sum(counts) == 0:
        counts = [*counts, 1]
    x = rows(seed, sum(counts), offset)
    parts = [exact_part(part) for part in np.split(x, np.cumsum(counts)[:-1])]
    merged = bnkern.merge_stats(parts)
    mean, var, count = oracle.stats(x, 1, LD)
    assert merged.count == count
    steps = 2 * len(counts) * FLOAT64
    assert np.all(np.abs(merged.mean - mean) <= steps * (np.abs(mean) + np.sqrt(var)))
    far = np.ptp([part.mean for part in parts if part.count], axis=0)
    assert np.all(np.abs(merged.var - var) <= steps * (4 * var + 2 * far * np.abs(mean)))


def test_merging_one_part_is_that_part():
    part = bnkern.batch_stats(cases.make((12, 5, 9), 1).x)
    merged = bnkern.merge_stats([part])
    assert merged.count == part.count
    np.testing.assert_allclose(merged.mean, part.mean, rtol=2 * FLOAT64)
    np.testing.assert_allclose(merged.var, part.var, rtol=2 * FLOAT64)


@pytest.mark.usefixtures("no_float_errors")
def test_empty_parts_are_neutral():
    x = cases.make((12, 5, 9), 1).x
    part, empty = bnkern.batch_stats(x), bnkern.batch_stats(x[:0])
    assert empty.count == 0
    assert empty.mean.shape == empty.var.shape == (5,)
    for order in ([empty, part], [part, empty], [empty, empty, part, empty]):
        merged = bnkern.merge_stats(order)
        assert merged.count == part.count
        np.testing.assert_allclose(merged.mean, part.mean, rtol=2 * FLOAT64)
        np.testing.assert_allclose(merged.var, part.var, rtol=2 * FLOAT64)
    assert bnkern.merge_stats([empty, empty]).count == 0


def test_merge_takes_any_iterable_and_changes_no_part():
    x = cases.make((12, 5, 9), 1).x
    parts = [bnkern.batch_stats(x[:5]), bnkern.batch_stats(x[5:])]
    before = [(p.mean.copy(), p.var.copy()) for p in parts]
    listed, generated = bnkern.merge_stats(parts), bnkern.merge_stats(p for p in parts)
    assert same_bits(listed.mean, generated.mean)
    assert same_bits(listed.var, generated.var)
    for part, (mean, var) in zip(parts, before, strict=True):
        assert same_bits(part.mean, mean)
        assert same_bits(part.var, var)


def test_variance_is_never_negative():
    """Parts of equal constants far from zero: E[x^2] - E[x]^2 would fall below zero here."""
    x = np.full((7, 3), 16777216.0)
    merged = bnkern.merge_stats([bnkern.batch_stats(part) for part in np.split(x, [2, 3])])
    assert merged.var.tolist() == [0, 0, 0]
    assert merged.mean.tolist() == [16777216.0] * 3


# ---------------------------------------------------------------- the whole from its parts


def split(a, cuts, axis):
    return np.split(a, sorted(cuts), axis=axis)


CUTS = [[], [4], [1, 1, 11], [0, 5, 12]]


@pytest.mark.parametrize("cuts", CUTS, ids=cases.label)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), PROBLEMS, ids=cases.label)
def test_statistics_of_a_split_batch(shape, axis, dtype, cuts):
    x = cases.make(shape, axis, dtype).x
    along = shape.index(12)
    merged = bnkern.merge_stats([bnkern.batch_stats(part, axis=axis) for part in split(x, cuts, along)])
    assert_stats_close(merged, x, axis)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("cuts", CUTS, ids=cases.label)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), PROBLEMS, ids=cases.label)
def test_gradients_of_a_split_batch(shape, axis, dtype, cuts, activation):
    case = cases.make(shape, axis, dtype)
    along = shape.index(12)
    how = {"axis": axis, "activation": activation}
    vectors = (case.weight, case.bias)
    y, stats = bnkern.batch_norm_train(case.x, weight=vectors[0], bias=vectors[1], **how)
    pairs = list(zip(split(case.dy, cuts, along), split(case.x, cuts, along), strict=True))
    sums = [bnkern.backward_reduce(dy, x, stats, weight=vectors[0], bias=vectors[1], **how) for dy, x in pairs]
    whole = bnkern.GradSums(*(sum(column) for column in zip(*sums, strict=True)))
    dx = np.concatenate(
        [bnkern.backward_apply(dy, x, stats, whole, weight=vectors[0], bias=vectors[1], **how) for dy, x in pairs],
        axis=along,
    )

    mean, var, _ = oracle.stats(case.x, axis, LD)
    want = oracle.backward(case.dy, case.x, mean, var, case.weight, axis=axis, y=y if activation else None, dtype=LD)
    scales = grad_scales(want.dresidual, case.x, mean, var, case.weight, axis)
    assert whole.sum_dy.dtype == whole.sum_dy_xhat.dtype == np.float64
    for name, got, expected, scale in zip(
        ["dx", "dweight", "dbias"], [dx, whole.sum_dy_xhat, whole.sum_dy], want[:3], scales, strict=True
    ):
        assert_close(got, expected, scale, name, dtype=case.x.dtype)


@pytest.mark.parametrize("with_y", [False, True], ids=["from-x", "from-y"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), PROBLEMS, ids=cases.label)
def test_one_part_gives_the_bits_of_batch_norm_backward(shape, axis, dtype, with_y):
    case = cases.make(shape, axis, dtype)
    how = {"axis": axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, **how)
    how |= {"y": y} if with_y else {}
    vectors = {"weight": case.weight, "bias": case.bias}
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, **vectors, **how)
    sums = bnkern.backward_reduce(case.dy, case.x, stats, **vectors, **how)
    assert same_bits(sums.sum_dy_xhat.astype(dtype), grads.dweight)
    assert same_bits(sums.sum_dy.astype(dtype), grads.dbias)
    assert same_bits(bnkern.backward_apply(case.dy, case.x, stats, sums, **vectors, **how), grads.dx)

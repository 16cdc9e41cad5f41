"""BatchStats and GradSums add up; a count may come back from a reduction as a float or an array of one element."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern


def parts():
    x = cases.make((12, 5, 7), 1).x
    return [bnkern.batch_stats(part) for part in (x[:3], x[3:4], x[4:4], x[4:])], bnkern.batch_stats(x)


def test_two_parts_merge():
    (a, b, empty, c), _ = parts()
    for got, want in ((a + b, [a, b]), (a + empty, [a, empty]), (empty + c, [empty, c])):
        want = bnkern.merge_stats(want)
        assert isinstance(got, bnkern.BatchStats)
        assert same_bits(got.mean, want.mean)
        assert same_bits(got.var, want.var)
        assert got.count == want.count


def test_sum_is_the_merge_of_many():
    each, whole = parts()
    got, merged = sum(each), bnkern.merge_stats(each)
    assert isinstance(got, bnkern.BatchStats)
    assert got.count == whole.count
    np.testing.assert_allclose(got.mean, merged.mean, rtol=1e-14)
    np.testing.assert_allclose(got.var, merged.var, rtol=1e-14)
    np.testing.assert_allclose(got.var, whole.var, rtol=1e-6)


def test_what_does_not_add():
    (a, b, *_), _ = parts()
    for other in (1, tuple(b), None):
        with pytest.raises(TypeError, match="unsupported operand"):
            a + other
    with pytest.raises(ValueError, match=r"parts\[1\].mean: expected shape \(5,\)"):
        a + bnkern.BatchStats(np.zeros(2), np.ones(2), 3)
    with pytest.raises(TypeError, match=r"parts\[1\].count: expected an integer, got None"):
        a + b._replace(count=None)


def test_other_libraries_add_in_their_own_arrays():
    torch = of_framework("torch")
    (a, b, *_), _ = parts()
    lent = [bnkern.BatchStats(torch.from_numpy(s.mean), torch.from_numpy(s.var), s.count) for s in (a, b)]
    got, want = sum(lent), a + b
    assert isinstance(got.mean, torch.Tensor)
    assert same_bits(got.mean.numpy(), want.mean)
    assert same_bits(got.var.numpy(), want.var)


COUNTS = {
    "float": float,
    "float64": np.float64,
    "float32": np.float32,
    "int64": np.int64,
    "0-d": np.array,
    "0-d float": lambda n: np.array(float(n)),
    "torch": lambda n: of_framework("torch").tensor(float(n)),
    "jax": lambda n: of_framework("jax").numpy.asarray(n),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_as_they_come_back_from_an_all_gather(kind):
    case = cases.make((12, 5, 7), 1)
    stats = bnkern.batch_stats(case.x)
    told = stats._replace(count=COUNTS[kind](stats.count))
    merged = bnkern.merge_stats([told, stats])
    assert merged.count == 2 * stats.count
    assert type(merged.count) is int
    for got, want in zip(
        bnkern.batch_norm_backward(case.dy, case.x, told)[:1],
        bnkern.batch_norm_backward(case.dy, case.x, stats)[:1],
        strict=True,
    ):
        assert same_bits(got, want)
    sums = bnkern.backward_reduce(case.dy, case.x, told)
    assert same_bits(
        bnkern.backward_apply(case.dy, case.x, told, sums), bnkern.batch_norm_backward(case.dy, case.x, stats).dx
    )
    running = {"running_mean": case.bias, "running_var": case.weight**2}
    for got, want in zip(bnkern.update_running(told, **running), bnkern.update_running(stats, **running), strict=True):
        assert same_bits(got, want)


@pytest.mark.parametrize("count", [20.5, np.float32(0.1), np.array(1.5), float("inf"), float("nan"), -1.0, 2.0**70])
def test_counts_that_are_no_number_of_values(count):
    stats = bnkern.batch_stats(cases.make((12, 5, 7), 1).x)._replace(count=count)
    with pytest.raises(ValueError, match=r"parts\[0\].count: expected"):
        bnkern.merge_stats([stats])


def test_sums_of_opposite_infinities_are_silent():
    """Inf - Inf is NaN in its channel, whatever NumPy's error state."""
    a, b = (bnkern.GradSums(np.array([sign * np.inf, 1]), np.array([1.0, sign * np.inf])) for sign in (1, -1))
    with np.errstate(all="raise"):
        both = sum([a, b])
    np.testing.assert_equal(both.sum_dy, [np.nan, 2])
    np.testing.assert_equal(both.sum_dy_xhat, [2, np.nan])


def test_statistics_cross_a_jit_boundary():
    """A traced count has no value to compare: that of x is used."""
    jax = of_framework("jax")
    case = cases.make((4, 5, 7), 1)
    x, dy = jax.numpy.asarray(case.x), jax.numpy.asarray(case.dy)
    _, stats = jax.jit(lambda x: bnkern.batch_norm_train(x))(x)
    assert isinstance(stats, bnkern.BatchStats)
    dx = jax.jit(lambda dy, x, stats: bnkern.batch_norm_backward(dy, x, stats).dx)(dy, x, stats)
    want = bnkern.batch_norm_backward(case.dy, case.x, bnkern.batch_stats(case.x)).dx
    np.testing.assert_allclose(dx, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bnkern.batch_norm_backward(dy, x, stats).dx, want, rtol=1e-4, atol=1e-5)

"""Running statistics: the arithmetic of Algorithm 2, in place and pure, in buffers of any memory."""

import warnings

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, assert_close, same_bits

import bnkern


def start(channels, dtype):
    return np.linspace(-1, 2, channels).astype(dtype), np.linspace(0.5, 3, channels).astype(dtype)


def assert_updated(got, old, stats, momentum, correction):
    """The new running pair is the oracle's, from the returned statistics, with one rounding to its dtype
    and two before.
    """
    batch = stats.mean, oracle.unbiased(stats.var, stats.count, correction)
    for name, new, before, value in zip(("running_mean", "running_var"), got, old, batch, strict=True):
        want = oracle.running(before, value, momentum)
        scale = np.abs((1 - LD(momentum)) * before) + np.abs(LD(momentum) * value)
        assert new.dtype == before.dtype
        assert_close(new, want, scale, name, limit=2)


@pytest.mark.parametrize("momentum", [0.1, 0, 1, 0.9, 1.5, -0.5, np.float32(0.25)])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize(("dtype", "running"), cases.PAIRS)
def test_update(dtype, running, correction, momentum):
    x = cases.make((6, 5, 7), 1, dtype).x
    old = start(5, running)
    new = old[0].copy(), old[1].copy()
    how = {"momentum": momentum, "correction": correction}
    _, stats = bnkern.batch_norm_train(x, running_mean=new[0], running_var=new[1], **how)
    assert_updated(new, old, stats, momentum, correction)

    pure = bnkern.update_running(stats, running_mean=old[0], running_var=old[1], **how)
    for a, b, before in zip(pure, new, old, strict=True):
        assert same_bits(a, b), "pure and in place are one arithmetic"
        assert not np.shares_memory(a, before)
    assert same_bits(old[0], start(5, running)[0]), "update_running changes nothing"
    assert same_bits(old[1], start(5, running)[1])


def test_defaults_are_the_papers():
    x = cases.make((6, 5, 7), 1).x
    old = start(5, "float32")
    new = old[0].copy(), old[1].copy()
    _, stats = bnkern.batch_norm_train(x, running_mean=new[0], running_var=new[1])
    assert_updated(new, old, stats, 0.1, 1)


def test_cumulative_average_is_algorithm_2():
    """momentum=None, num_batches = 1, 2, ...: the plain average of the batches, whatever the buffers held
    before.
    """
    batches = [cases.make((6, 5, 7), 1, "float64", seed).x for seed in range(4)]
    mean, var = np.full(5, 1e3), np.full(5, 1e3)
    for k, x in enumerate(batches, 1):
        bnkern.batch_norm_train(x, running_mean=mean, running_var=var, momentum=None, num_batches=k)
    means, variances = zip(*(oracle.stats(x, 1, LD)[:2] for x in batches), strict=True)
    np.testing.assert_allclose(
        mean, np.mean(means, axis=0).astype(float), rtol=1e-13
    )  # 4 updates of some units each
    unbiased = [oracle.unbiased(v, 42) for v in variances]
    np.testing.assert_allclose(var, np.mean(unbiased, axis=0).astype(float), rtol=1e-13)


def test_one_factor_for_cumulative_average_and_momentum():
    stats = bnkern.batch_stats(cases.make((6, 5, 7), 1).x)
    old = start(5, "float64")
    for a, b in zip(
        bnkern.update_running(stats, running_mean=old[0], running_var=old[1], momentum=None, num_batches=4),
        bnkern.update_running(stats, running_mean=old[0], running_var=old[1], momentum=0.25),
        strict=True,
    ):
        assert same_bits(a, b)


STRIDED = {
    "every-second": lambda n: np.zeros(2 * n)[::2],
    "backwards": lambda n: np.zeros(n)[::-1],
    "column": lambda n: np.zeros((n, 3))[:, 1],
    "byte-swapped": lambda n: np.zeros(n, np.dtype(np.float64).newbyteorder()),
    "field": lambda n: np.zeros(n, [("tag", "u1"), ("value", "f8")])["value"],  # misaligned by one byte
}


@pytest.mark.parametrize("view", STRIDED)
def test_buffers_of_any_strides_are_updated_in_place(view):
    x = cases.make((6, 5, 7), 1).x
    old = start(5, "float64")
    mean, var = STRIDED[view](5), STRIDED[view](5)
    mean[...], var[...] = old
    _, stats = bnkern.batch_norm_train(x, running_mean=mean, running_var=var)
    want = bnkern.update_running(stats, running_mean=old[0], running_var=old[1])
    assert np.array_equal(mean, want[0])
    assert np.array_equal(var, want[1])


def test_a_buffer_that_lies_on_itself_is_refused():
    """Strides can be set on an array that owns its memory, too."""
    mean = np.zeros(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mean.strides = (0,)
    with pytest.raises(ValueError, match="running_mean: expected one place in memory per element"):
        bnkern.batch_norm_train(cases.make((6, 5, 7), 1).x, running_mean=mean, running_var=np.ones(5))


def test_two_columns_of_one_array_do_not_overlap():
    both = np.zeros((5, 2))
    both[:, 1] = 1
    _, stats = bnkern.batch_norm_train(cases.make((6, 5, 7), 1).x, running_mean=both[:, 0], running_var=both[:, 1])
    want = bnkern.update_running(stats, running_mean=np.zeros(5), running_var=np.ones(5))
    assert np.array_equal(both.T, want)


@pytest.mark.usefixtures("no_float_errors")
@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 7), (6, 5, 0)])
def test_no_elements_leave_the_buffers_alone(shape):
    old = start(5, "float32")
    new = old[0].copy(), old[1].copy()
    y, stats = bnkern.batch_norm_train(np.empty(shape, np.float32), running_mean=new[0], running_var=new[1])
    assert y.shape == shape
    assert stats.count == 0
    assert same_bits(new[0], old[0])
    assert same_bits(new[1], old[1])
    for a, b in zip(bnkern.update_running(stats, running_mean=old[0], running_var=old[1]), old, strict=True):
        assert same_bits(a, b)


def test_count_equal_to_the_correction_is_refused_and_changes_nothing():
    """One value per channel has no unbiased variance: n / (n - 1) would be infinite."""
    old = start(2, "float64")
    stats = bnkern.BatchStats(np.ones(2), np.zeros(2), 1)
    with pytest.raises(ValueError, match="correction"):
        bnkern.update_running(stats, running_mean=old[0], running_var=old[1])
    mean, var = bnkern.update_running(stats, running_mean=old[0], running_var=old[1], correction=0)
    np.testing.assert_allclose(mean, 0.9 * old[0] + 0.1, rtol=1e-15)
    np.testing.assert_allclose(var, 0.9 * old[1], rtol=1e-15)

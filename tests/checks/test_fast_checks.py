"""The fast side of the checks: True only where nothing can be wrong. A True too many is a call that nobody checks."""

import numpy as np
import pytest

from bnkern._native import checks


class Sub(np.ndarray):
    """Not exactly an array of NumPy."""


def vector(n=3, dtype="f4"):
    return np.ones(n, dtype)


def read_only(a):
    a.flags.writeable = False
    return a


X = np.ones((4, 3), "f4")
ODD = {
    "a list": [1.0, 1.0, 1.0],
    "too long": vector(4),
    "a matrix": np.ones((3, 1), "f4"),
    "integers": vector(dtype="i4"),
    "half": vector(dtype="f2"),
    "a subclass": vector().view(Sub),
}


def test_vectors_as_they_mostly_are():
    assert checks.vectors(X, 3, 0, None, None)
    assert checks.vectors(X, 3, 2, vector(), vector(dtype="f8"), None)
    assert checks.vectors(X, 3, 0)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_vector_that_is_not_as_usual(odd, place):
    given = [vector(), vector(), vector()]
    given[place] = ODD[odd]
    assert not checks.vectors(X, 3, 0, *given)


def test_a_required_vector_may_not_be_none():
    assert not checks.vectors(X, 3, 1, None, vector())
    assert not checks.vectors(X, 3, 2, vector(), None)
    assert checks.vectors(X, 3, 1, vector(), None)
    assert not checks.vectors(X.tolist(), 3, 0)
    assert not checks.vectors(X.view(Sub), 3, 0)


@pytest.mark.parametrize("odd", [X.tolist(), X.astype("f8"), X[:3], X[None], X.reshape(3, 4), X.view(Sub)], ids=repr)
def test_twins(odd):
    assert checks.twin(X, np.zeros_like(X))
    assert not checks.twin(X, odd)


def test_an_output_must_be_writeable_and_gapless():
    assert checks.output(X.copy())
    assert checks.output(X.copy(), X, None)
    assert not checks.output(read_only(X.copy()))
    assert not checks.output(np.zeros((4, 6), "f4")[:, ::2])
    assert checks.output(X.copy()[:]), "a view is as good as an owner"
    assert not checks.output(np.asfortranarray(X))
    assert not checks.output(X.copy().view(Sub))
    assert not checks.output(X.copy().byteswap().view(">f4"))


def test_an_output_may_share_memory_with_nothing_but_itself():
    out = X.copy()
    assert checks.output(out, out, X)
    assert not checks.output(out, out[:])
    assert not checks.output(out, X, out.T)


def test_views_of_one_buffer_are_told_apart_by_their_bytes():
    """Slices of a buffer, as real programs have them; gaps count as the array's."""
    buffer = np.zeros(1000, np.float32)
    one, next_to_it, across = buffer[:100], buffer[100:200], buffer[99:199]
    assert checks.output(one, next_to_it, buffer[:0], buffer[200::3], buffer[299:199:-1])
    for other in (across, buffer, buffer[:100][:], buffer[99:][::-1][800:], buffer[::3]):
        assert not checks.output(one, other)
    wild = np.lib.stride_tricks.as_strided(buffer[500:], (3,), (2**62,))
    assert not checks.output(one, wild)
    assert checks.running(one[:10], one[10:20], next_to_it)
    assert not checks.running(one[:10], one[9:19])
    assert not checks.running(one[:10], one[10:20], across, buffer[5:15])


def test_what_is_told_apart_shares_no_byte():
    rng, buffer = np.random.default_rng(0), np.zeros(100, np.float32)
    apart = 0
    for _ in range(5000):
        (n, m), (step, at, start) = rng.integers(0, 8, 2), rng.integers([-3, 40, 30], [4, 60, 70])
        x = np.lib.stride_tricks.as_strided(buffer[at:], (n,), (4 * step,))
        out = buffer[start : start + m]
        if checks.output(out, x):
            apart += 1
            assert not np.shares_memory(x, out)
    assert apart > 1000


def test_running_statistics_are_two_arrays_that_can_be_written():
    assert checks.running(vector(), vector())
    assert checks.running(vector(), vector(), X, None, vector())
    one = vector()
    assert not checks.running(one, one)
    for odd in (read_only(vector()), np.ones(6, "f4")[::2], vector().view(Sub), [1.0]):
        assert not checks.running(odd, vector())
        assert not checks.running(vector(), odd)


def test_running_statistics_are_no_other_operand():
    mean, var, weight = vector(), vector(), vector()
    assert checks.running(mean, var, X, weight)
    assert not checks.running(mean, var, X, mean)
    assert not checks.running(mean, var, X, weight, var)
    assert checks.running(mean, var, X, weight[:])
    assert not checks.running(mean, var, mean[:])

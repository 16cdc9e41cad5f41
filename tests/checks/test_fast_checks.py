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


def test_an_output_must_be_writeable_gapless_and_own_its_memory():
    assert checks.output(X.copy())
    assert checks.output(X.copy(), X, None)
    assert not checks.output(read_only(X.copy()))
    assert not checks.output(np.zeros((4, 6), "f4")[:, ::2])
    assert not checks.output(X.copy()[:])
    assert not checks.output(np.asfortranarray(X))
    assert not checks.output(X.copy().view(Sub))
    assert not checks.output(X.copy().byteswap().view(">f4"))


def test_an_output_may_share_memory_with_nothing_but_itself():
    out = X.copy()
    assert checks.output(out, out, X)
    assert not checks.output(out, out[:])
    assert not checks.output(out, X, out.T)


def test_running_statistics_are_two_arrays_that_can_be_written():
    assert checks.running(vector(), vector())
    assert checks.running(vector(), vector(), X, None, vector())
    one = vector()
    assert not checks.running(one, one)
    for odd in (read_only(vector()), np.ones(6, "f4")[::2], vector()[:], vector().view(Sub), [1.0]):
        assert not checks.running(odd, vector())
        assert not checks.running(vector(), odd)


def test_running_statistics_are_no_other_operand():
    mean, var, weight = vector(), vector(), vector()
    assert checks.running(mean, var, X, weight)
    assert not checks.running(mean, var, X, mean)
    assert not checks.running(mean, var, X, weight, var)
    assert not checks.running(mean, var, X, weight[:]), "whose memory that is would have to be found out"
    assert not checks.running(mean, var, mean[:])

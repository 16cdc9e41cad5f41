"""The oracle itself, and the yardstick: by hand, by finite differences in longdouble, and by errors put in
on purpose.
"""

import numpy as np
import pytest
from helpers import cases, compare, oracle

LD = np.longdouble


def test_one_channel_by_hand():
    """1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5; with eps 0.5 the divisor is 2."""
    x = np.array([[1.0], [2.0], [3.0], [6.0]])
    mean, var, count = oracle.stats(x)
    assert (mean[0], var[0], count) == (3, 3.5, 4)
    y = oracle.forward(x, mean, var, np.array([4.0]), np.array([1.0]), eps=0.5)
    assert y.ravel().tolist() == [-3, -1, 1, 7]
    assert oracle.forward(x, mean, var, eps=0.5, relu=True).ravel().tolist() == [0, 0, 0, 1.5]
    assert float(oracle.unbiased(var, 4)[0]) == pytest.approx(14 / 3, rel=1e-15)
    assert float(oracle.running(np.array([2.0]), mean, 0.25)[0]) == 2.25


@pytest.mark.parametrize("frozen", [False, True])
def test_backward_by_finite_differences(frozen):
    """In longdouble, step 1e-6: the error is some 1e-12 by the step and 1e-13 by rounding."""
    case = cases.make((4, 2, 3), 1, "float64")
    mean, var, _ = oracle.stats(case.x, dtype=LD)

    def loss(x):
        here = (mean, var) if frozen else oracle.stats(x, dtype=LD)[:2]
        return np.sum(case.dy * oracle.forward(x, *here, case.weight, case.bias, dtype=LD))

    grads = oracle.backward(case.dy, case.x, mean, var, case.weight, frozen=frozen, dtype=LD)
    x, step = case.x.astype(LD), LD(1e-6)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        assert abs((loss(above) - loss(below)) / (2 * step) - grads.dx[i]) < 1e-9


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_yardstick_sees_errors(dtype):
    """Five units too much in one element of a scale's size are five units; NaN and Inf are never close to a
    number.
    """
    want = np.linspace(1, 1.9, 50).astype(dtype)
    wrong = want.copy()
    wrong[7] += 9 * 2.0 ** (1 - compare.FORMATS[dtype][0])
    assert compare.units(want, want, want) == 0
    assert compare.units(wrong, want, want) == pytest.approx(9)
    with pytest.raises(AssertionError, match="9 units"):
        compare.assert_close(wrong, want, want, "y", limit=8)
    wrong[7] = np.nan
    with pytest.raises(AssertionError):
        compare.assert_close(wrong, want, want, "y")
    assert not compare.same_bits(np.array(0.0), np.array(-0.0))

"""The gradients against finite differences of bnkern's own forward: no formula of a gradient is used here.

Central differences with step h err by h^2/6 of the third derivative, some 1e-10 here, and by 1e-16/h =
1e-11 of the sum.
"""

import numpy as np
import pytest
from helpers import cases

import bnkern

STEP, TOLERANCE = 1e-5, 1e-7
EPS = 1e-3
FIXED_MEAN, FIXED_VAR = 0.5, 2.0
SHAPES = [
    pytest.param((3, 2, 2, 2), 1, id="cf"),
    pytest.param((3, 2, 3), -1, id="cl"),
    pytest.param((2, 7), 0, id="nc"),
]


def slope(f, a):
    """df/da, one element at a time."""
    result = np.empty_like(a)
    for i in np.ndindex(a.shape):
        keep = a[i]
        a[i] = keep + STEP
        above = f()
        a[i] = keep - STEP
        result[i] = (above - f()) / (2 * STEP)
        a[i] = keep
    return result


def fixed_stats(channels):
    return bnkern.BatchStats(np.full(channels, FIXED_MEAN), np.full(channels, FIXED_VAR), 10)


def forward(x, weight, bias, residual, axis, activation, frozen):
    if frozen:
        mean, var, _ = fixed_stats(x.shape[axis])
        return bnkern.batch_norm_inference(
            x,
            running_mean=mean,
            running_var=var,
            weight=weight,
            bias=bias,
            axis=axis,
            eps=EPS,
            activation=activation,
            residual=residual,
        )
    return bnkern.batch_norm_train(
        x, weight=weight, bias=bias, axis=axis, eps=EPS, activation=activation, residual=residual
    )[0]


@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize("affine", [False, True], ids=["bare", "affine"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_finite_differences(shape, axis, frozen, affine, activation, residual):
    case = cases.make(shape, axis, "float64", seed=3)
    variables = {
        "x": case.x,
        "weight": case.weight if affine else np.ones(case.channels),
        "bias": case.bias if affine else np.zeros(case.channels),
        "residual": case.residual if residual else None,
    }

    def loss():
        return float(np.sum(case.dy * forward(*variables.values(), axis, activation, frozen)))

    z = forward(*variables.values(), axis, None, frozen)
    assert np.abs(z).min() > 20 * STEP, "a kink of the ReLU within reach of the step: choose another seed"
    assert z.min() < 0 < z.max()

    vectors = (case.weight, case.bias) if affine else (None, None)
    stats = fixed_stats(case.channels) if frozen else bnkern.batch_stats(case.x, axis=axis)
    y = forward(*variables.values(), axis, activation, frozen) if residual else None
    needs = [name for name, variable in variables.items() if variable is not None]
    grads = bnkern.batch_norm_backward(
        case.dy,
        case.x,
        stats,
        weight=vectors[0],
        bias=vectors[1],
        axis=axis,
        eps=EPS,
        frozen=frozen,
        activation=activation,
        y=y,
        needs=needs,
    )
    for name in needs:
        want = slope(loss, variables[name])
        allowed = TOLERANCE * max(1, np.abs(want).max())
        np.testing.assert_allclose(getattr(grads, "d" + name), want, rtol=0, atol=allowed, err_msg="d" + name)

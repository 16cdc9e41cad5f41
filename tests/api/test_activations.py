"""Every activation of the library in every pass: forward, backward from y and from x, frozen, parts, residual."""

import numpy as np
import pytest
from helpers import activations, cases
from helpers.compare import same_bits

import bnkern
from bnkern._activations import ACTIVATIONS

NAMES = list(activations.RULES)
NEEDS = ("x", "weight", "bias", "residual")
SHAPES = [((4, 5, 6, 7), 1), ((9, 31), -1), ((3, 64, 41), 1), ((64, 33, 5), 1), ((7, 5, 3), -1)]


def test_the_rules_know_every_activation():
    assert set(NAMES) == {entry.name for entry in ACTIVATIONS}


def problem(shape, axis, dtype, scale=4):
    """z spread over all pieces of the rules; the parts at which they meet are hit, too."""
    case = cases.make(shape, axis, dtype)
    how = {"weight": (case.weight * scale).astype(dtype), "bias": case.bias, "axis": axis}
    return case, how


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=cases.label)
@pytest.mark.parametrize("name", NAMES)
def test_forward(name, shape, axis, dtype, residual):
    case, how = problem(shape, axis, dtype)
    how["residual"] = case.residual if residual else None
    z, _ = bnkern.batch_norm_train(case.x, **how)
    y, stats = bnkern.batch_norm_train(case.x, activation=activations.RULES[name].written, **how)
    if dtype in cases.WIDE:
        assert same_bits(y, activations.value(name, z))
    else:  # rounded once, after the activation
        want = activations.value(name, z.astype(np.float32))
        off = np.abs(y.astype(np.float32) - want).max()
        assert off <= 2.0 ** (-7 if dtype == "bfloat16" else -10) * np.abs(want).max()
    how |= {"running_mean": stats.mean, "running_var": stats.var}
    assert same_bits(bnkern.batch_norm_inference(case.x, activation=activations.RULES[name].written, **how), y)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=cases.label)
@pytest.mark.parametrize("name", NAMES)
def test_backward_is_that_of_dy_behind_the_activation(name, shape, axis, dtype, frozen):
    case, how = problem(shape, axis, dtype)
    fused = how | {"activation": activations.RULES[name].written, "frozen": frozen}
    z, stats = bnkern.batch_norm_train(case.x, **how)
    y, _ = bnkern.batch_norm_train(case.x, activation=activations.RULES[name].written, **how)
    told = bnkern.batch_norm_backward(case.dy, case.x, stats, y=y, needs=NEEDS, **fused)
    recomputed = bnkern.batch_norm_backward(case.dy, case.x, stats, **fused)
    for field in ("dx", "dweight", "dbias"):
        assert same_bits(getattr(told, field), getattr(recomputed, field)), f"{field} with and without y"
    g = activations.behind(name, z, case.dy)
    assert same_bits(told.dresidual, g)
    if dtype in cases.WIDE:  # 16 bits keep g in float32, unrounded
        plain = bnkern.batch_norm_backward(g, case.x, stats, frozen=frozen, **how)
        assert all(same_bits(a, b) for a, b in zip(told[:3], plain[:3], strict=True))


@pytest.mark.parametrize("dtype", cases.WIDE)
@pytest.mark.parametrize("name", NAMES)
def test_behind_a_residual_y_tells(name, dtype):
    case, how = problem((4, 5, 6, 7), 1, dtype)
    fused = how | {"activation": activations.RULES[name].written}
    z, stats = bnkern.batch_norm_train(case.x, residual=case.residual, **how)
    y, _, vjp = bnkern.batch_norm_vjp(case.x, residual=case.residual, **fused)
    g = activations.behind(name, z, case.dy)
    grads = vjp(case.dy)
    plain = bnkern.batch_norm_backward(g, case.x, stats, **how)
    assert same_bits(grads.dresidual, g)
    assert all(same_bits(a, b) for a, b in zip(grads[:3], plain[:3], strict=True))
    sums = bnkern.backward_reduce(case.dy, case.x, stats, y=y, **fused)
    assert same_bits(bnkern.backward_apply(case.dy, case.x, stats, sums, y=y, **fused), grads.dx)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_a_z_that_underflows_when_stored(name, axis, dtype):
    """z of 1e-9 is 0 in float16: the gradient must know it as the forward stored it, with y and without."""
    case = cases.make((64, 19), axis, dtype)
    how = {"weight": np.full(case.channels, 1e-9 if dtype == "float16" else 1e-40), "axis": axis}
    how["activation"] = activations.RULES[name].written
    y, stats = bnkern.batch_norm_train(case.x, **how)
    told = bnkern.batch_norm_backward(case.dy, case.x, stats, y=y, **how)
    recomputed = bnkern.batch_norm_backward(case.dy, case.x, stats, **how)
    assert all(same_bits(a, b) for a, b in zip(told[:3], recomputed[:3], strict=True))
    if name == "relu" and dtype == "float16":
        assert not recomputed.dbias.any()


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_inf(name):
    x = np.array([[-np.inf, 1], [np.nan, -2], [np.inf, 0.5], [0.0, -0.0]], np.float32)
    how = {"running_mean": np.zeros(2), "running_var": np.ones(2), "eps": 0.0, "bias": np.full(2, -0.0)}  # keeps -0
    y = bnkern.batch_norm_inference(x, activation=activations.RULES[name].written, **how)
    with np.errstate(all="ignore"):
        assert same_bits(y, activations.value(name, x))
    dy = np.full_like(x, 3)
    stats = (how["running_mean"], how["running_var"], None)
    fused = {"activation": activations.RULES[name].written, "eps": 0.0, "frozen": True, "needs": ("x",)}
    fused["bias"] = how["bias"]
    assert same_bits(bnkern.batch_norm_backward(dy, x, stats, **fused).dx, activations.behind(name, x, dy))


@pytest.mark.parametrize("name", NAMES)
def test_every_library(backend, name):
    """The kernels' bits, or the same to rounding where the library computes itself."""
    case, how = problem((4, 5, 6, 3), 1, "float32")
    del how["axis"]

    def call(a):
        options = {"weight": a["weight"], "bias": a["bias"], "activation": activations.RULES[name].written}
        y, _, vjp = bnkern.batch_norm_vjp(a["x"], residual=a["residual"], **options)
        _, stats = bnkern.batch_norm_train(a["x"])
        return y, *vjp(a["dy"]), *bnkern.batch_norm_backward(a["dy"], a["x"], stats, **options)[:3]

    given = {"x": case.x, "dy": case.dy, "residual": case.residual, **how}
    got = [backend.back(a) for a in backend.run(call, {key: backend.make(a) for key, a in given.items()})]
    for a, b in zip(got, call(given), strict=True):
        if backend.same_bits:
            assert same_bits(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * np.abs(b).max())

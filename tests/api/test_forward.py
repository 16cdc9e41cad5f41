"""Training forward and inference against the oracle: every rank, axis, layout, odd size, and every option."""

import itertools

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, assert_close, same_bits, y_scale

import bnkern


def check(case, *, weight=None, bias=None, relu=False, residual=None, eps=1e-5, x=None):
    """Training and inference on one case, against the oracle, for any combination of the options."""
    x, axis = case.x if x is None else x, case.axis
    how = {"axis": axis, "eps": eps, "residual": residual, "activation": "relu" if relu else None}
    y, stats = bnkern.batch_norm_train(x, weight=weight, bias=bias, **how)
    mean, var, count = oracle.stats(x, axis, LD)
    want = oracle.forward(x, mean, var, weight, bias, axis=axis, eps=eps, relu=relu, residual=residual, dtype=LD)
    assert y.dtype == x.dtype
    assert stats.count == count
    assert_close(y, want, y_scale(x, mean, var, weight, bias, residual, axis, eps), "y")
    same = bnkern.batch_norm_inference(
        x, running_mean=stats.mean, running_var=stats.var, weight=weight, bias=bias, **how
    )
    assert same_bits(y, same), "training and inference are one kernel family: the same bits from the same statistics"
    return y


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.EVERY_AXIS, ids=cases.label)
def test_every_rank_and_axis(shape, axis, dtype):
    case = cases.make(shape, axis, dtype)
    check(case, weight=case.weight, bias=case.bias)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("size", cases.SIZES)
@pytest.mark.parametrize("where", cases.SIZED)
def test_every_odd_size(where, size, dtype):
    shape, axis = cases.SIZED[where](size)
    case = cases.make(shape, axis, dtype)
    if case.x.size == case.channels:
        pytest.skip("one value per channel has no variance: see test_bad_input.py")
    check(case, weight=case.weight, bias=case.bias)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.LARGE, ids=cases.label)
def test_sizes_that_are_split_over_threads(shape, axis, dtype):
    case = cases.make(shape, axis, dtype)
    check(case, weight=case.weight, bias=case.bias)


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.LAID_OUT, ids=cases.label)
def test_every_memory_layout(shape, axis, dtype, memory):
    case = cases.make(shape, axis, dtype).map(cases.LAYOUTS[memory])
    check(case, weight=case.weight, bias=case.bias, residual=case.residual, relu=True)


DTYPE_OR_NONE = [None, "float32", "float64"]
OPTIONS = list(itertools.product(DTYPE_OR_NONE, DTYPE_OR_NONE, [False, True], [False, True]))


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((3, 6, 35), 1), ((35, 19), -1)], ids=["cf", "cl"])
@pytest.mark.parametrize(("weight", "bias", "relu", "residual"), OPTIONS)
def test_every_option(shape, axis, dtype, weight, bias, relu, residual):
    case = cases.make(shape, axis, dtype)
    check(
        case,
        weight=case.weight.astype(weight) if weight else None,
        bias=case.bias.astype(bias) if bias else None,
        relu=relu,
        residual=case.residual if residual else None,
    )


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 1, 10.0, np.float32(1e-5)])
def test_eps_stands_inside_the_root(eps):
    case = cases.make((5, 4, 9), 1)
    check(case, weight=case.weight, bias=case.bias, eps=eps)


def test_inference_takes_eps_zero():
    case = cases.make((5, 4, 9), 1)
    mean, var, _ = oracle.stats(case.x, 1, LD)
    y = bnkern.batch_norm_inference(case.x, running_mean=mean.astype(float), running_var=var.astype(float), eps=0)
    want = oracle.forward(case.x, mean, var, eps=0, dtype=LD)
    assert_close(y, want, y_scale(case.x, mean, var, eps=0), "y")


@pytest.mark.parametrize(("dtype", "running"), cases.PAIRS)
@pytest.mark.parametrize(("shape", "axis"), cases.SMALL, ids=cases.label)
def test_inference_with_statistics_of_its_own(shape, axis, dtype, running):
    case = cases.make(shape, axis, dtype)
    other = cases.make(shape, axis, "float64", seed=1)
    mean, var = other.bias.astype(running), np.square(other.weight).astype(running)
    y = bnkern.batch_norm_inference(
        case.x, running_mean=mean, running_var=var, weight=case.weight, bias=case.bias, axis=axis
    )
    want = oracle.forward(case.x, mean, var, case.weight, case.bias, axis=axis, dtype=LD)
    assert_close(y, want, y_scale(case.x, mean, var, case.weight, case.bias, axis=axis), "y")


def test_relu_cuts_at_zero_and_nowhere_else():
    case = cases.make((6, 5, 40), 1)
    plain, _ = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias)
    fused, _ = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, activation="relu")
    assert 0.2 < np.mean(plain > 0) < 0.8, "the case must have both signs"
    assert np.array_equal(fused, np.maximum(plain, 0))


def test_the_input_is_not_changed():
    case = cases.make((6, 5, 40), 1)
    before = case.x.copy()
    check(case, weight=case.weight, bias=case.bias, residual=case.residual, relu=True)
    assert same_bits(case.x, before)


# ---------------------------------------------------------------- where the output goes


@pytest.mark.parametrize("memory", ["contiguous", "fortran", "channels-last-memory"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_output_keeps_the_memory_order_of_x(memory, axis):
    x = cases.LAYOUTS[memory](cases.make((3, 4, 5, 6), axis).x)
    y, stats = bnkern.batch_norm_train(x, axis=axis)
    assert y.strides == x.strides
    assert (
        bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var, axis=axis).strides == x.strides
    )


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), cases.LAID_OUT, ids=cases.label)
def test_out_of_any_memory_is_filled_and_returned(shape, axis, memory):
    case = cases.make(shape, axis)
    want, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, axis=axis)
    for run in (
        lambda out: bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, axis=axis, out=out)[0],
        lambda out: bnkern.batch_norm_inference(
            case.x,
            running_mean=stats.mean,
            running_var=stats.var,
            weight=case.weight,
            bias=case.bias,
            axis=axis,
            out=out,
        ),
    ):
        out = cases.LAYOUTS[memory](np.zeros_like(case.x))
        owner = out if out.base is None else out.base
        neighbours = np.isnan(owner).copy()
        assert run(out) is out
        assert same_bits(out, want)
        assert np.array_equal(np.isnan(owner), neighbours), "what lies between the strides was written"


@pytest.mark.parametrize("alias", [lambda x: x, lambda x: x[...], lambda x: x.view()], ids=["x", "x[...]", "view"])
@pytest.mark.parametrize(("shape", "axis"), [*cases.SMALL, ((2, 3, 257, 259), 1), ((4097, 37), -1)], ids=cases.label)
def test_out_may_be_x(shape, axis, alias):
    case = cases.make(shape, axis)
    options = {"axis": axis, "activation": "relu", "residual": case.residual}
    want, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, **options)
    x = case.x.copy()
    y, again = bnkern.batch_norm_train(x, weight=case.weight, bias=case.bias, out=alias(x), **options)
    assert np.shares_memory(x, y)
    assert same_bits(x, want)
    assert same_bits(again.mean, stats.mean)
    assert same_bits(again.var, stats.var)


@pytest.mark.parametrize("shape", [(3, 5, 33), (2, 3, 64, 65)], ids=cases.label)
@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_nothing_is_written_beside_out(shape, offset):
    case = cases.make(shape, 1)
    room = np.full(case.x.size + 64, -7, np.float32)
    out = room[offset // 4 : offset // 4 + case.x.size].reshape(shape)
    bnkern.batch_norm_train(case.x, out=out)
    assert np.all(room[: offset // 4] == -7)
    assert np.all(room[offset // 4 + case.x.size :] == -7)

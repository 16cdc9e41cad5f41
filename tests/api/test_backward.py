"""All gradients against the oracle's chain rule: every rank, axis, layout, odd size, option, and `needs`."""

import itertools

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, arithmetic, assert_close, coarser, grad_scales, same_bits

import bnkern

EVERY = ("x", "weight", "bias", "residual")


def check(case, *, weight=None, bias=None, relu=False, residual=None, frozen=False, eps=1e-5, give_y=False):
    """The four gradients of one case against the oracle, for any combination of the options."""
    x, dy, axis = case.x, case.dy, case.axis
    how = {"axis": axis, "eps": eps, "activation": "relu" if relu else None}
    if frozen:  # statistics from elsewhere, as running ones are
        stats = bnkern.BatchStats(0.3 * case.bias.astype(np.float64) + 0.1, case.weight.astype(np.float64) ** 2, 7)
        y = bnkern.batch_norm_inference(
            x, running_mean=stats.mean, running_var=stats.var, weight=weight, bias=bias, residual=residual, **how
        )
        mean, var = stats.mean, stats.var
    else:
        y, stats = bnkern.batch_norm_train(x, weight=weight, bias=bias, residual=residual, **how)
        mean, var, _ = oracle.stats(x, axis, LD)
    # The oracle takes the signs from the forward output that test_forward.py has checked: at a distance of
    # one rounding from zero either sign is right, and forward and backward must agree on it.
    signs = y if relu else None
    needs = EVERY if give_y or not relu else EVERY[:3]
    grads = bnkern.batch_norm_backward(
        dy, x, stats, weight=weight, bias=bias, frozen=frozen, needs=needs, y=y if give_y else None, **how
    )
    want = oracle.backward(dy, x, mean, var, weight, axis=axis, eps=eps, frozen=frozen, y=signs, dtype=LD)
    dx, dweight, dbias = grad_scales(want.dresidual, x, mean, var, weight, axis, eps, frozen)

    assert grads.dx.dtype == x.dtype
    of_vectors = next((v.dtype for v in (weight, bias) if v is not None), arithmetic(x.dtype))
    assert grads.dweight.dtype == grads.dbias.dtype == of_vectors
    assert_close(grads.dx, want.dx, dx, "dx")
    reachable = coarser(arithmetic(x.dtype), of_vectors)
    assert_close(grads.dweight, want.dweight, dweight, "dweight", dtype=reachable)
    assert_close(grads.dbias, want.dbias, dbias, "dbias", dtype=reachable)
    if "residual" in needs:
        assert np.array_equal(grads.dresidual, want.dresidual.astype(x.dtype))
    return grads


@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.EVERY_AXIS, ids=cases.label)
def test_every_rank_and_axis(shape, axis, dtype, frozen):
    case = cases.make(shape, axis, dtype)
    check(case, weight=case.weight, bias=case.bias, frozen=frozen)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("size", cases.SIZES)
@pytest.mark.parametrize("where", cases.SIZED)
def test_every_odd_size(where, size, dtype):
    shape, axis = cases.SIZED[where](size)
    case = cases.make(shape, axis, dtype)
    single = case.x.size == case.channels  # no variance: see test_bad_input.py
    check(case, weight=case.weight, bias=case.bias, frozen=True)
    if not single:
        check(case, weight=case.weight, bias=case.bias)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.LARGE, ids=cases.label)
def test_sizes_that_are_split_over_threads(shape, axis, dtype):
    case = cases.make(shape, axis, dtype)
    check(case, weight=case.weight, bias=case.bias)
    check(case, weight=case.weight, bias=case.bias, frozen=True)


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), cases.LAID_OUT, ids=cases.label)
def test_every_memory_layout(shape, axis, dtype, memory):
    case = cases.make(shape, axis, dtype).map(cases.LAYOUTS[memory])
    check(case, weight=case.weight, bias=case.bias, residual=case.residual, relu=True, give_y=True)


VECTORS = list(itertools.product([None, "float32", "float64"], [None, "float32", "float64"]))
MODES = [
    pytest.param({}, id="plain"),
    pytest.param({"relu": True}, id="relu"),
    pytest.param({"relu": True, "give_y": True}, id="relu-from-y"),
    pytest.param({"relu": True, "give_y": True, "residual": True}, id="relu-residual"),
    pytest.param({"residual": True}, id="residual"),
]


@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((3, 6, 35), 1), ((35, 19), -1)], ids=["cf", "cl"])
@pytest.mark.parametrize(("weight", "bias"), VECTORS)
@pytest.mark.parametrize("mode", MODES)
def test_every_option(shape, axis, dtype, weight, bias, mode, frozen):
    case = cases.make(shape, axis, dtype)
    check(
        case,
        weight=case.weight.astype(weight) if weight else None,
        bias=case.bias.astype(bias) if bias else None,
        frozen=frozen,
        **mode | ({"residual": case.residual} if "residual" in mode else {}),
    )


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 10.0])
def test_eps(eps):
    case = cases.make((5, 4, 9), 1)
    check(case, weight=case.weight, bias=case.bias, eps=eps)


# ---------------------------------------------------------------- needs, and where the gradients go

SUBSETS = [s for k in range(5) for s in itertools.combinations(EVERY, k)]


@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("needs", SUBSETS, ids=lambda s: "+".join(s) or "nothing")
def test_needs_chooses_and_changes_no_bit(needs, activation, frozen):
    case = cases.make((4, 5, 37), 1)
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, activation=activation)
    args = (case.dy, case.x, stats)
    how = {"activation": activation, "y": y, "frozen": frozen, "weight": case.weight, "bias": case.bias}
    everything = bnkern.batch_norm_backward(*args, needs=EVERY, **how)
    some = bnkern.batch_norm_backward(*args, needs=needs, **how)
    for field in EVERY:
        got, want = getattr(some, "d" + field), getattr(everything, "d" + field)
        assert (got is None) if field not in needs else same_bits(got, want), field


def test_needs_may_be_any_collection_and_defaults_to_three():
    case = cases.make((4, 5, 37), 1)
    _, stats = bnkern.batch_norm_train(case.x)
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats)
    assert grads.dresidual is None
    again = bnkern.batch_norm_backward(case.dy, case.x, stats, needs=["bias", "x", "weight"])
    for a, b in zip(grads[:3], again[:3], strict=True):
        assert same_bits(a, b)


def test_without_activation_the_gradient_of_the_residual_is_dy_itself():
    case = cases.make((4, 5, 37), 1)
    _, stats = bnkern.batch_norm_train(case.x, residual=case.residual)
    assert bnkern.batch_norm_backward(case.dy, case.x, stats, needs=("residual",)).dresidual is case.dy


@pytest.mark.parametrize("memory", ["contiguous", "fortran", "channels-last-memory"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dx_keeps_the_memory_order_of_x(memory, axis):
    case = cases.make((3, 4, 5, 6), axis)
    x = cases.LAYOUTS[memory](case.x)
    _, stats = bnkern.batch_norm_train(x, axis=axis)
    for dy in (case.dy, cases.LAYOUTS[memory](case.dy)):
        assert bnkern.batch_norm_backward(dy, x, stats, axis=axis).dx.strides == x.strides


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
def test_out_of_any_memory_is_filled_and_returned(memory, frozen):
    case = cases.make((4, 7, 5, 9), 1)
    _, stats = bnkern.batch_norm_train(case.x)
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, frozen=frozen)
    out = cases.LAYOUTS[memory](np.zeros_like(case.x))
    owner = out if out.base is None else out.base
    neighbours = np.isnan(owner).copy()
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, frozen=frozen, out=out)
    assert grads.dx is out
    assert same_bits(out, want.dx)
    assert same_bits(grads.dweight, want.dweight)
    assert np.array_equal(np.isnan(owner), neighbours), "what lies between the strides was written"


@pytest.mark.parametrize("alias", ["dy", "x"])
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize(("shape", "axis"), [*cases.SMALL, ((2, 3, 257, 259), 1), ((4097, 37), -1)], ids=cases.label)
def test_out_may_be_dy_or_x(shape, axis, frozen, alias):
    case = cases.make(shape, axis)
    options = {"axis": axis, "frozen": frozen, "activation": "relu"}
    _, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, axis=axis)
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, bias=case.bias, **options)
    inputs = {"dy": case.dy.copy(), "x": case.x.copy()}
    grads = bnkern.batch_norm_backward(
        *inputs.values(), stats, weight=case.weight, bias=case.bias, out=inputs[alias], **options
    )
    assert grads.dx is inputs[alias]
    for got, expected in zip(grads[:3], want[:3], strict=True):
        assert same_bits(got, expected)


def test_the_inputs_are_not_changed():
    case = cases.make((4, 5, 37), 1)
    _, stats = bnkern.batch_norm_train(case.x)
    before = case.x.copy(), case.dy.copy()
    bnkern.batch_norm_backward(case.dy, case.x, stats, needs=EVERY, activation="relu", y=np.ones_like(case.x))
    assert same_bits(case.x, before[0])
    assert same_bits(case.dy, before[1])


def test_dy_may_lie_otherwise_in_memory_than_x():
    case = cases.make((4, 7, 5, 9), 1)
    _, stats = bnkern.batch_norm_train(case.x)
    want = bnkern.batch_norm_backward(case.dy, case.x, stats)
    for memory, move in cases.LAYOUTS.items():
        got = bnkern.batch_norm_backward(move(case.dy), case.x, stats)
        for a, b in zip(got[:3], want[:3], strict=True):
            assert same_bits(a, b), memory

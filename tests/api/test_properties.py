"""Any shape, axis, strides, options and split, drawn by hypothesis, against the oracle."""

import numpy as np
from helpers import cases, oracle
from helpers.compare import LD, assert_close, grad_scales, same_bits, y_scale
from hypothesis import assume, given
from hypothesis import strategies as st

import bnkern

DIMENSIONS = [
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
]


@st.composite
def shapes(draw):
    """(shape, axis), rank 2 to 6, the long dimension anywhere."""
    rank = draw(st.integers(2, 6))
    shape = draw(st.permutations([draw(d) for d in DIMENSIONS[:rank]]))
    return tuple(shape), draw(st.integers(-rank, rank - 1))


@st.composite
def views(draw, rank):
    """A function that puts an array elsewhere in memory: axes in any order, steps of any size and sign,
    gaps.
    """
    order = draw(st.permutations(range(rank)))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -2]), min_size=rank, max_size=rank))
    gap = draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank))

    def move(a):
        size = [a.shape[d] * abs(steps[d]) + gap[d] for d in range(rank)]
        buffer = np.full([size[d] for d in order], np.nan, a.dtype).transpose(np.argsort(order))
        view = buffer[tuple(slice(a.shape[d] * abs(steps[d])) for d in range(rank))]
        view = view[tuple(slice(None, None, step) for step in steps)]
        view[...] = a
        return view

    return move


@st.composite
def problems(draw):
    """A case with x, dy, residual each in memory of its own kind."""
    shape, axis = draw(shapes())
    case = cases.make(shape, axis, draw(st.sampled_from(cases.DTYPES)), seed=draw(st.integers(0, 10**6)))
    return case, [draw(views(len(shape))) for _ in range(3)]


OPTION = st.booleans()


@given(problems(), OPTION, OPTION, OPTION, OPTION, OPTION, st.sampled_from([1e-5, 1e-3, 1.0]))
def test_forward_and_backward(problem, with_weight, with_bias, relu, with_residual, frozen, eps):
    case, (move_x, move_dy, move_residual) = problem
    axis, count = case.axis, case.x.size // case.channels
    assume(frozen or count > 1)
    weight, bias = case.weight if with_weight else None, case.bias if with_bias else None
    residual = case.residual if with_residual else None
    x, dy = move_x(case.x), move_dy(case.dy)
    how = {"axis": axis, "eps": eps, "activation": "relu" if relu else None}
    given_residual = move_residual(residual) if with_residual else None
    if frozen:
        stats = bnkern.BatchStats(case.bias.astype(float), np.square(case.weight, dtype=float), count)
        mean, var = stats.mean, stats.var
        y = bnkern.batch_norm_inference(
            x, running_mean=mean, running_var=var, weight=weight, bias=bias, residual=given_residual, **how
        )
    else:
        y, stats = bnkern.batch_norm_train(x, weight=weight, bias=bias, residual=given_residual, **how)
        mean, var, _ = oracle.stats(case.x, axis, LD)
    want = oracle.forward(case.x, mean, var, weight, bias, axis=axis, eps=eps, relu=relu, residual=residual, dtype=LD)
    assert_close(y, want, y_scale(case.x, mean, var, weight, bias, residual, axis, eps), "y")

    grads = bnkern.batch_norm_backward(
        dy, x, stats, weight=weight, bias=bias, frozen=frozen, y=y if relu else None, **how
    )
    want = oracle.backward(
        case.dy, case.x, mean, var, weight, axis=axis, eps=eps, frozen=frozen, y=y if relu else None, dtype=LD
    )
    scales = grad_scales(want.dresidual, case.x, mean, var, weight, axis, eps, frozen)
    for name, scale in zip(("dx", "dweight", "dbias"), scales, strict=True):
        assert_close(getattr(grads, name), getattr(want, name), scale, name)


@given(problems())
def test_memory_changes_no_bit(problem):
    case, (move_x, move_dy, move_residual) = problem
    assume(case.x.size > case.channels)
    moved = cases.Case(
        move_x(case.x), move_dy(case.dy), case.weight, case.bias, move_residual(case.residual), case.axis
    )
    got, want = cases.everything(moved), cases.everything(case)
    assert {key for key in want if not same_bits(got[key], want[key])} == set()


@given(problems(), st.data())
def test_any_split_is_the_whole(problem, data):
    """Statistics and gradients from parts along any axis but the channels', parts of any size, none
    included.
    """
    case, (move_x, move_dy, _) = problem
    axis, rank = case.axis % case.x.ndim, case.x.ndim
    assume(case.x.size > case.channels)
    along = data.draw(st.sampled_from([d for d in range(rank) if d != axis]), label="along")
    cuts = sorted(data.draw(st.lists(st.integers(0, case.x.shape[along]), max_size=4), label="cuts"))
    parts = list(zip(np.split(move_dy(case.dy), cuts, along), np.split(move_x(case.x), cuts, along), strict=True))

    stats = bnkern.merge_stats(bnkern.batch_stats(x, axis=axis) for _, x in parts)
    mean, var, count = oracle.stats(case.x, axis, LD)
    assert stats.count == count
    how = {"weight": case.weight, "bias": case.bias, "axis": axis}
    sums = sum(bnkern.backward_reduce(dy, x, stats, **how) for dy, x in parts)
    dx = np.concatenate([bnkern.backward_apply(dy, x, stats, sums, **how) for dy, x in parts], along)
    y = np.concatenate(
        [bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var, **how) for _, x in parts], along
    )

    want = oracle.backward(case.dy, case.x, mean, var, case.weight, axis=axis, dtype=LD)
    scales = grad_scales(case.dy, case.x, mean, var, case.weight, axis)
    assert_close(y, oracle.forward(case.x, mean, var, case.weight, case.bias, axis=axis, dtype=LD),
                 y_scale(case.x, mean, var, case.weight, case.bias, None, axis), "y")  # fmt: skip
    for name, got, scale in zip(("dx", "dweight", "dbias"), (dx, sums.sum_dy_xhat, sums.sum_dy), scales, strict=True):
        assert_close(got, getattr(want, name), scale, name, dtype=case.x.dtype)

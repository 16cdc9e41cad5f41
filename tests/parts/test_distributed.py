"""bnkern.distributed through threads as ranks: any spread of rows is the whole batch; errors reach every rank."""

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, assert_close, assert_stats_close, grad_scales, same_bits, y_scale
from helpers.libraries import of_framework
from helpers.ranks import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

import bnkern
from bnkern import distributed
from bnkern.distributed import RankError

ALL = ("x", "weight", "bias", "residual")


def both_ways(case, rows, gather, make=lambda a: a, relu=True, **how):
    """Forward and backward on these rows; every result by name."""
    x, dy, residual = (make(a[rows]) for a in (case.x, case.dy, case.residual))
    vectors = {"weight": make(case.weight), "bias": make(case.bias), "axis": case.axis, "comm": gather, **how}
    running = {"running_mean": make(np.zeros(case.channels)), "running_var": make(np.ones(case.channels))}
    fused = {"activation": "relu"} if relu else {}
    y, stats = distributed.batch_norm_train(
        x, **vectors, **fused, **running, **({"residual": residual} if relu else {})
    )
    back = fused | ({"y": y, "needs": ALL} if relu else {})
    grads = distributed.batch_norm_backward(dy, x, stats, **vectors, **back)
    return {"y": y, "mean": stats.mean, "var": stats.var, "count": stats.count, **running, **grads._asdict()}


def spread(counts):
    ends = np.cumsum(counts)
    return [slice(end - n, end) for end, n in zip(ends, counts, strict=True)]


OF_ROWS, OF_ALL = ("y", "dx", "dresidual"), ("mean", "var", "running_mean", "running_var", "dweight", "dbias")


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(lambda counts: sum(counts) > 1),
    st.sampled_from([1, -1]),
    st.sampled_from(["float32", "float64", "float16"]),
    st.sampled_from([None, 1, 3]),
)
def test_any_spread_is_the_whole(counts, axis, dtype, part_size):
    case = cases.make((sum(counts), 3, 4), axis, dtype)
    places = spread(counts)
    results, meeting = on_ranks(
        len(counts), lambda rank, gather: both_ways(case, places[rank], gather, part_size=part_size)
    )
    assert meeting.meetings == [2] * len(counts)  # one gather forward, one backward
    for name in OF_ALL:
        assert all(same_bits(result[name], results[0][name]) for result in results), name
    got = {name: np.concatenate([result[name] for result in results]) for name in OF_ROWS} | {
        name: results[0][name] for name in (*OF_ALL, "count")
    }
    assert_stats_close(bnkern.BatchStats(got["mean"], got["var"], got["count"]), case.x, axis)
    mean, var, n = oracle.stats(case.x, axis, LD)
    vectors = case.weight, case.bias
    want = oracle.forward(case.x, mean, var, *vectors, axis=axis, relu=True, residual=case.residual, dtype=LD)
    assert_close(got["y"], want, y_scale(case.x, mean, var, *vectors, case.residual, axis), "y")
    want = oracle.backward(case.dy, case.x, mean, var, case.weight, axis=axis, y=got["y"], dtype=LD)
    scales = grad_scales(want.dresidual, case.x, mean, var, case.weight, axis)
    for name, expected, scale in zip(("dx", "dweight", "dbias"), want[:3], scales, strict=True):
        assert_close(got[name], expected, scale, name)
    assert same_bits(got["dresidual"], np.where(got["y"] <= 0, 0, case.dy).astype(dtype))
    np.testing.assert_allclose(got["running_mean"], (0.1 * mean).astype(float), atol=1e-6)
    np.testing.assert_allclose(got["running_var"], (0.9 + 0.1 * var * n / (n - 1)).astype(float), rtol=1e-6)


def test_the_same_bits_for_any_number_of_ranks():
    """Twelve rows in parts of two: on one rank, two, three and six."""
    case = cases.make((12, 5, 7), 1)
    found = []
    for n in (1, 2, 3, 6):
        places = spread([12 // n] * n)
        results, _ = on_ranks(
            n, lambda rank, gather, places=places: both_ways(case, places[rank], gather, part_size=2)
        )
        whole = {name: np.concatenate([result[name] for result in results]) for name in OF_ROWS}
        found.append(whole | {name: results[0][name] for name in OF_ALL})
    for other in found[1:]:
        assert all(same_bits(other[name], found[0][name]) for name in found[0])


def test_one_rank_gives_the_bits_of_the_plain_functions():
    case = cases.make((6, 5, 7), 1)
    (got,), _ = on_ranks(1, lambda rank, gather: both_ways(case, slice(None), gather, relu=False))
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias)
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, bias=case.bias)
    for name, want in {"y": y, "mean": stats.mean, "var": stats.var, "dx": grads.dx, "dweight": grads.dweight}.items():
        assert same_bits(got[name], want), name


@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_other_kinds_of_array_in_cpu_memory(kind):
    library = of_framework(kind)
    case = cases.make((6, 5, 7), 1)
    make = library.tensor if kind == "torch" else library.numpy.asarray

    def call(rank, gather, make):
        rows = slice(0, 4) if rank == 0 else slice(4, 6)
        x, dy, w = (make(a) for a in (case.x[rows], case.dy[rows], case.weight))
        y, stats = distributed.batch_norm_train(x, weight=w, comm=gather)
        assert type(y) is type(x) is type(stats.mean)
        grads = distributed.batch_norm_backward(dy, x, stats, weight=w, comm=gather)
        return np.asarray(y), np.asarray(grads.dx)

    got, _ = on_ranks(2, lambda rank, gather: call(rank, gather, make))
    want, _ = on_ranks(2, lambda rank, gather: call(rank, gather, np.asarray))
    for mine, plain in zip(got, want, strict=True):
        for a, b in zip(mine, plain, strict=True):
            if kind == "torch":
                assert same_bits(a, b)
            else:  # without float64 statistics are float32 there
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bytes_do_not_depend_on_the_batch():
    def of(rows, channels):
        x = np.ones((rows, channels, 2), np.float32)
        _, meeting = on_ranks(2, lambda rank, gather: distributed.batch_norm_train(x, comm=gather))
        return meeting.bytes[0]

    assert of(2, 8) == of(200, 8)
    assert of(2, 16) - of(2, 8) == 8 * 2 * 8  # a mean and a variance for each channel


# ---------------------------------------------------------------- what is wrong on one rank


def wrong(rank, case):
    """Arguments of a rank, by what is wrong with them."""
    x = case.x[2 * rank : 2 * rank + 2].copy()
    return {
        "dtype": {"x": x.astype(int)},
        "no array": {"x": None},
        "rank 1": {"x": x[0, 0]},
        "weight": {"x": x, "weight": np.ones(7)},
        "axis": {"x": x, "axis": 5},
        "eps": {"x": x, "eps": float("nan")},
        "eps without repr": {"x": x, "eps": NoRepr()},
        "part_size": {"x": x, "part_size": 0},
        "out": {"x": x, "out": np.ones(3)},
    }


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __format__ = __repr__


@pytest.mark.parametrize("what", wrong(0, cases.make((6, 5, 7), 1)))
def test_an_invalid_rank_raises_on_every_rank(what):
    case = cases.make((6, 5, 7), 1)
    running = [(np.zeros(5), np.ones(5)) for _ in range(3)]

    def call(rank, gather):
        arguments = wrong(rank, case)[what] if rank == 1 else {"x": case.x[2 * rank : 2 * rank + 2]}
        mean, var = running[rank]
        x = arguments.pop("x")
        return distributed.batch_norm_train(x, comm=gather, running_mean=mean, running_var=var, **arguments)

    errors, _ = on_ranks(3, call)
    assert isinstance(errors[1], (TypeError, ValueError))
    for other in (errors[0], errors[2]):
        assert isinstance(other, RankError)
        assert other.rank == 1
        assert str(other) == f"rank 1: {type(errors[1]).__name__}: {errors[1]}"
    for mean, var in running:
        assert mean.tolist() == [0] * 5
        assert var.tolist() == [1] * 5


def test_ranks_that_disagree_all_raise_the_same():
    x = cases.make((6, 5, 7), 1).x
    one, two = np.ones((1, 5)), {"correction": 2}
    for words, *of_rank in [
        ("expected the same number of channels.*, got 5 on rank 0, 6 on rank 1", {"x": x}, {"x": np.ones((2, 6))}),
        ("the same call on every rank, got .*eps=1e-05.* on rank 0, .*eps=0.1", {"x": x}, {"x": x, "eps": 0.1}),
        ("the same call on every rank, got .*eps=1e-05, ", {"x": x}, {"x": x, "eps": np.nextafter(1e-5, 1)}),
        ("the same call.*momentum=0.1, .*momentum=0.10000001, ", {"x": x}, {"x": x, "momentum": 0.10000001}),
        ("the same call.*got .*axis=1,.*axis=2,", {"x": x[:, :, :5]}, {"x": x[:, :, :5], "axis": 2}),
        ("expected more than one value per channel on all ranks together", {"x": one}, {"x": one[:0]}),
        ("correction: expected a number >= 0 and below the count, 2", {"x": one} | two, {"x": one} | two),
    ]:
        errors, _ = on_ranks(2, lambda rank, gather, a=of_rank: distributed.batch_norm_train(**a[rank], comm=gather))
        assert all(isinstance(error, ValueError) for error in errors), errors
        with pytest.raises(ValueError, match=words):
            raise errors[1]
        assert str(errors[0]) == str(errors[1])


def test_backward_with_other_rows_than_forward():
    case = cases.make((6, 5, 7), 1)

    def call(rank, gather):
        _, stats = distributed.batch_norm_train(case.x, comm=gather)
        rows = slice(0, 6 - rank)
        return distributed.batch_norm_backward(case.dy[rows], case.x[rows], stats, comm=gather)

    errors, _ = on_ranks(2, call)
    for error in errors:
        with pytest.raises(ValueError, match=r"stats.count: expected 77, the values per channel of all ranks, got 84"):
            raise error


def test_nothing_at_all_is_an_empty_batch():
    running = np.full(5, 3.0), np.full(5, 4.0)
    x = np.zeros((0, 5, 7), np.float32)
    results, _ = on_ranks(2, lambda rank, gather: distributed.batch_norm_train(x, comm=gather))
    for y, stats in results:
        assert y.shape == (0, 5, 7)
        assert stats.count == 0
    on_ranks(
        1,
        lambda rank, gather: distributed.batch_norm_train(
            x, comm=gather, running_mean=running[0], running_var=running[1]
        ),
    )
    assert running[0].tolist() == [3] * 5
    assert running[1].tolist() == [4] * 5


def test_what_no_message_can_be_made_of():
    da = of_framework("dask.array")
    error = on_ranks(1, lambda rank, gather: distributed.batch_norm_train(da.ones((4, 3)), comm=gather))[0][0]
    with pytest.raises(TypeError, match=r"x: expected an array with its values in CPU memory.*got one of dask.array"):
        raise error
    with pytest.raises(TypeError, match="batch_norm_train takes x by position and everything else by keyword"):
        distributed.batch_norm_train(np.ones((4, 3)), lambda message: [message])
    class Communicator:  # as mpi4py's are, and not one of them
        Allgatherv = Is_inter = None

    for comm in (None, 3, int, Communicator):
        with pytest.raises(TypeError, match="comm: expected an mpi4py communicator"):
            distributed.batch_norm_train(np.ones((4, 3)), comm=comm)


def test_the_channel_axis_from_either_end():
    x = cases.make((6, 5, 7), 1).x
    (y, _), (other, _) = on_ranks(2, lambda rank, g: distributed.batch_norm_train(x, comm=g, axis=(1, -2)[rank]))[0]
    assert same_bits(y, other)


@pytest.mark.parametrize("give_back", [
    lambda m: None, lambda m: 3, lambda m: [], lambda m: [b"x"], lambda m: [3], lambda m: [m[:-5]], lambda m: m,
    lambda m: [m, None],
])  # fmt: skip
def test_a_function_that_gathers_something_else(give_back):
    out = np.full((4, 3), 7.0)
    with pytest.raises(TypeError, match="comm: expected a function from this rank's bytes to the list of those of all"):
        distributed.batch_norm_train(np.random.default_rng(0).standard_normal((4, 3)), comm=give_back, out=out)
    assert (out == 7).all()

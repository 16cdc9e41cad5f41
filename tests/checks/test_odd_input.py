"""Input that is unusual and legal gives the bits of its plain copy, and never a warning."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits

import bnkern

BYTE_SWAPPED = np.dtype(np.float32).newbyteorder()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def memory_map(a, tmp_path):
    path = tmp_path / str(id(a))
    path.write_bytes(a.tobytes())
    return np.memmap(path, a.dtype, "r", shape=a.shape)


def misaligned(a):
    """Every element one byte off."""
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def field(a):
    """A field of packed records, 5 bytes apart."""
    records = np.zeros(a.shape, [("tag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


class Subclass(np.ndarray):
    pass


ODD = {
    "read-only": lambda a, _: read_only(a),
    "memory map": memory_map,
    "misaligned": lambda a, _: misaligned(a),
    "field of records": lambda a, _: field(a),
    "byte-swapped": lambda a, _: a.astype(a.dtype.newbyteorder()),
    "byte-swapped and strided": lambda a, _: cases.spread_out(a.astype(a.dtype.newbyteorder())),
    "subclass": lambda a, _: a.view(Subclass),
}


@pytest.mark.parametrize("which", ["x", "dy", "residual", "all"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((4, 7, 5, 9), 1), ((40, 19), -1)], ids=cases.label)
@pytest.mark.parametrize("odd", ODD)
def test_odd_memory_gives_the_same_bits(odd, shape, axis, dtype, which, tmp_path):
    case = cases.make(shape, axis, dtype)
    if dtype == "bfloat16" and odd.startswith("byte-swapped"):
        pytest.skip(f"NumPy has no byte-swapped {dtype}")
    move = {name: ODD[odd](getattr(case, name), tmp_path) for name in ("x", "dy", "residual") if which in (name, "all")}
    got, want = cases.everything(replace(case, **move)), cases.everything(case)
    for key, value in want.items():
        assert np.asarray(got[key]).dtype.isnative
        assert same_bits(got[key], value) or key.endswith("dresidual"), key


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("odd", ["misaligned", "field of records", "byte-swapped", "read-only", "subclass"])
def test_odd_vectors_give_the_same_bits(name, odd, tmp_path):
    case = cases.make((6, 5, 9), 1)
    vectors = {
        "weight": case.weight,
        "bias": case.bias,
        "running_mean": case.bias,
        "running_var": case.weight**2,
    }
    want = bnkern.batch_norm_inference(case.x, **vectors)
    got = bnkern.batch_norm_inference(case.x, **vectors | {name: ODD[odd](vectors[name], tmp_path)})
    assert same_bits(got, want)


@pytest.mark.parametrize(
    "make", [misaligned, field, lambda a: a.astype(BYTE_SWAPPED)], ids=["misaligned", "field", "swapped"]
)
def test_out_of_odd_memory_is_filled_right(make):
    case = cases.make((4, 7, 5, 9), 1)
    want, _ = bnkern.batch_norm_train(case.x)
    out = make(np.zeros_like(case.x))
    y, _ = bnkern.batch_norm_train(case.x, out=out)
    assert y is out
    assert np.array_equal(out, want)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_zero_strides(axis):
    """A broadcast x: all values of a channel (or all channels) are the same memory."""
    for keep in range(3):
        size = [1, 1, 1]
        size[keep] = 6
        x = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(size), (6, 6, 6))
        want, stats = bnkern.batch_norm_train(x.copy(), axis=axis)
        y, same = bnkern.batch_norm_train(x, axis=axis)
        assert np.array_equal(y, want)
        assert same_bits(same.var, stats.var)
        dx = bnkern.batch_norm_backward(x, x, stats, axis=axis).dx
        assert np.array_equal(dx, bnkern.batch_norm_backward(x.copy(), x.copy(), stats, axis=axis).dx)


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("rank", [7, 9, 11])
def test_high_ranks(rank, memory):
    shape = (2,) * rank
    case = cases.make(shape, 1)
    flat = cases.make(shape, 1).map(lambda a: a.reshape(2, 2, -1))
    got = cases.everything(case.map(cases.LAYOUTS[memory]))
    for key, value in cases.everything(flat).items():
        assert np.asarray(got[key]).tobytes() == np.asarray(value).tobytes(), key


def test_high_rank_with_axes_in_any_order():
    """Nothing collapses: every axis keeps a stride of its own."""
    rng = np.random.default_rng(0)
    case = cases.make((2,) * 12, 1)
    order = {name: rng.permutation(12) for name in ("x", "dy", "residual")}
    moved = {
        name: np.ascontiguousarray(getattr(case, name).transpose(axes)).transpose(np.argsort(axes))
        for name, axes in order.items()
    }
    got, want = cases.everything(replace(case, **moved)), cases.everything(case)
    for key, value in want.items():
        assert same_bits(got[key], value), key


# ---------------------------------------------------------------- nothing to do

FIRST = [(0, 3), (0, 3, 5, 5), (4, 3, 0), (4, 3, 0, 7), (4, 0), (4, 0, 5), (0, 0)]
EMPTY = [*((shape, 1) for shape in FIRST), ((0, 5, 3), -1), ((4, 0, 3), -1), ((4, 5, 0), -1)]


@pytest.mark.usefixtures("no_float_errors")
@pytest.mark.parametrize("affine", [False, True], ids=["bare", "affine"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), EMPTY, ids=cases.label)
def test_empty_arrays(shape, axis, dtype, affine):
    """y empty, gradients zero, count 0, running buffers untouched, no warning even under
    np.seterr(all="raise").
    """
    x, channels = np.empty(shape, dtype), shape[axis]
    vectors = (np.ones(channels, dtype), np.ones(channels, dtype)) if affine else (None, None)
    running = np.full(channels, 3.0), np.full(channels, 5.0)
    residual = np.empty(shape, dtype)
    how = {"axis": axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(
        x, weight=vectors[0], bias=vectors[1], running_mean=running[0], running_var=running[1], residual=residual, **how
    )
    assert y.shape == shape
    assert y.dtype == dtype
    assert stats.count == 0
    assert stats.mean.shape == stats.var.shape == (channels,)
    assert np.all(running[0] == 3)
    assert np.all(running[1] == 5)
    assert (
        bnkern.batch_norm_inference(
            x, running_mean=running[0], running_var=running[1], weight=vectors[0], bias=vectors[1], **how
        ).shape
        == shape
    )
    for frozen in (False, True):
        grads = bnkern.batch_norm_backward(x, x, stats, weight=vectors[0], bias=vectors[1], frozen=frozen, y=y, **how)
        assert grads.dx.shape == shape
        assert grads.dweight.shape == grads.dbias.shape == (channels,)
        assert not np.any(grads.dweight)
        assert not np.any(grads.dbias)
    sums = bnkern.backward_reduce(x, x, stats, weight=vectors[0], bias=vectors[1], **how)
    assert not np.any(sums.sum_dy)
    assert not np.any(sums.sum_dy_xhat)
    assert bnkern.backward_apply(x, x, stats, sums, weight=vectors[0], bias=vectors[1], **how).shape == shape
    out = np.empty(shape, dtype)
    assert bnkern.batch_norm_train(x, weight=vectors[0], bias=vectors[1], out=out, **how)[0] is out


# ---------------------------------------------------------------- no warning, whatever NumPy's error state

LOUD = {
    "normal": lambda: cases.make((6, 5, 7), 1).x,
    "constant": lambda: np.full((6, 5, 7), 0.1, np.float32),
    "huge": lambda: np.full((6, 5, 7), 3e38, np.float32) * np.float32([1, -1]).repeat(3)[:, None, None],
    "tiny": lambda: np.full((6, 5, 7), 1e-45, np.float32),
    "NaN": lambda: np.full((6, 5, 7), np.nan, np.float32),
    "Inf": lambda: np.full((6, 5, 7), np.inf, np.float32),
}


@pytest.mark.usefixtures("no_float_errors")
@pytest.mark.parametrize("values", LOUD)
def test_no_floating_point_warning(values):
    """Overflow, underflow and NaN are results, not events: with the error state on "raise" no call raises."""
    x = LOUD[values]()
    cases.everything(cases.Case(x, x, np.ones(5, np.float32), np.zeros(5, np.float32), x, 1))
    stats = bnkern.batch_stats(x)
    bnkern.merge_stats([stats, stats])
    bnkern.update_running(stats, running_mean=np.zeros(5, np.float32), running_var=np.ones(5, np.float32))
    bnkern.fold_batch_norm(x[:5, 0], running_mean=x[0, :, 0], running_var=x[1, :, 0] ** 0)

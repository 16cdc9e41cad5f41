"""Ghost batches: one call is separate calls to the bit, forward and backward, for every kind of array."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import assert_stats_close, same_bits
from helpers.libraries import Backend
from hypothesis import given
from hypothesis import strategies as st

import bnkern

ALL = ("x", "weight", "bias", "residual")
SHAPES = [((7, 6, 5), 1), ((8, 4), -1), ((4, 2, 3, 5), 2)]


def runs(samples, size):
    return [slice(i, min(i + size, samples)) for i in range(0, samples, size)]


def in_one_call(size, axis, relu):
    """A function from arrays to every result by name; `relu`: behind an activation and a residual."""

    def call(a):
        vectors = {"weight": a["weight"], "bias": a["bias"], "axis": axis}
        fused = {"activation": "relu", "residual": a["residual"]} if relu else {}
        y, stats, vjp = bnkern.batch_norm_vjp(a["x"], ghost_batch_size=size, **vectors, **fused)
        needs = ALL if relu else ALL[:3]
        grads = vjp(a["dy"], needs=needs)
        found = {"y": y, "mean": stats.mean, "var": stats.var, **grads._asdict()}
        return {name: value for name, value in found.items() if value is not None}

    return call


def in_separate_calls(size, axis, relu):
    def call(a):
        found = {name: [] for name in ("y", "mean", "var", "dx", "dweight", "dbias", "dresidual")}
        for rows in runs(a["x"].shape[0], size):
            x, dy, residual = (a[name][rows, ...] for name in ("x", "dy", "residual"))
            vectors = {"weight": a["weight"], "bias": a["bias"], "axis": axis}
            fused = {"activation": "relu"} if relu else {}
            added = {"residual": residual} if relu else {}
            y, stats = bnkern.batch_norm_train(x, **vectors, **fused, **added)
            back = fused | ({"y": y, "needs": ALL} if relu else {})
            grads = bnkern.batch_norm_backward(dy, x, stats, **vectors, **back)
            sums = bnkern.backward_reduce(dy, x, stats, **vectors, **fused, **({"y": y} if relu else {}))
            for name, value in zip(
                found, (y, *stats[:2], grads.dx, sums.sum_dy_xhat, sums.sum_dy, grads.dresidual), strict=True
            ):
                if value is not None:
                    found[name].append(value)
        return {name: values for name, values in found.items() if values}

    return call


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=cases.label)
def test_one_call_is_separate_calls(backend, shape, axis, size, relu):
    case = cases.make(shape, axis)
    arrays = {name: backend.make(getattr(case, name)) for name in ("x", "dy", "weight", "bias", "residual")}
    got = backend.run(in_one_call(size, axis, relu), arrays)
    want = backend.run(in_separate_calls(size, axis, relu), arrays)
    equal = same_bits if backend is not Backend.JAX_JIT else close  # XLA orders what it has traced as it likes
    for name in ("y", "dx", "dresidual") if relu else ("y", "dx"):
        if backend is not Backend.JAX_JIT:
            assert type(got[name]) is type(arrays["x"])
            backend.like(got[name], arrays["x"])
        assert equal(backend.back(got[name]), np.concatenate([backend.back(a) for a in want[name]])), name
    for name in ("mean", "var"):
        assert equal(backend.back(got[name]), np.stack([backend.back(a) for a in want[name]])), name
    for name in ("dweight", "dbias"):
        added = sum([backend.back(v) for v in want[name]][1:], start=backend.back(want[name][0]))
        of_sums = close if backend is Backend.JAX_32 else equal  # whose separate sums were rounded to float32
        assert of_sums(backend.back(got[name]), added.astype(np.float32)), name


def close(a, b):
    return a.dtype == b.dtype and np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_layouts_dtypes_and_out(dtype, memory):
    case = cases.make((7, 6, 5, 3), 1, dtype).map(cases.LAYOUTS[memory])
    arrays = {name: getattr(case, name) for name in ("x", "dy", "weight", "bias", "residual")}
    fused = {"weight": case.weight, "bias": case.bias, "activation": "relu", "residual": case.residual}
    want = in_separate_calls(3, 1, True)(arrays)
    out = cases.of_nan(case.x)
    y, stats = bnkern.batch_norm_train(case.x, ghost_batch_size=3, out=out, **fused)
    assert y is out
    assert same_bits(y, np.concatenate(want["y"]))
    fresh, _ = bnkern.batch_norm_train(case.x, ghost_batch_size=3, **fused)
    assert same_bits(fresh, y)
    del fused["residual"]
    dx = case.dy.copy(order="K")
    grads = bnkern.batch_norm_backward(dx, case.x, stats, ghost_batch_size=3, y=y, needs=ALL, out=dx, **fused)
    assert grads.dx is dx
    assert same_bits(dx, np.concatenate(want["dx"]))
    assert same_bits(grads.dresidual, np.concatenate(want["dresidual"]))
    assert grads.dweight.dtype == case.x.dtype


@given(st.integers(0, 12), st.integers(1, 14), st.integers(0, 3))
def test_running_statistics_are_the_merged_ones(samples, size, inner):
    x = np.random.default_rng([samples, size, inner]).standard_normal((samples, 3, inner)).astype(np.float32)
    counts = [(rows.stop - rows.start) * inner for rows in runs(samples, size)] or [0]
    running = {"running_mean": np.array([1.0, 2, 3]), "running_var": np.array([4.0, 5, 6])}
    old = {name: a.copy() for name, a in running.items()}
    if 1 in counts:
        with pytest.raises(ValueError, match="ghost_batch_size: expected more than one value per channel in each"):
            bnkern.batch_norm_train(x, ghost_batch_size=size, **running)
        for name, a in old.items():
            assert same_bits(a, running[name])
        return
    y, stats = bnkern.batch_norm_train(x, ghost_batch_size=size, momentum=0.3, **running)
    assert y.shape == x.shape
    assert stats.count == tuple(counts)
    assert stats.mean.shape == stats.var.shape == (len(counts), 3)
    merged = bnkern.merge_stats(zip(*stats, strict=True))
    assert merged.count == samples * inner
    for a, b in zip(bnkern.update_running(merged, momentum=0.3, **old), running.values(), strict=True):
        assert same_bits(a, b)
    if merged.count:
        assert_stats_close(merged, x, 1)
    grads = bnkern.batch_norm_backward(x, x, stats, ghost_batch_size=size)
    assert grads.dx.shape == x.shape
    assert grads.dbias.shape == (3,)


def test_frozen_statistics_of_each_ghost_batch():
    case = cases.make((5, 4, 6), 1)
    mean, var = np.tile(case.bias, (2, 1)), np.tile(case.weight**2, (2, 1))
    mean[1] += 1
    got = bnkern.batch_norm_backward(case.dy, case.x, (mean, var, None), frozen=True, ghost_batch_size=3)
    for i, rows in enumerate((slice(0, 3), slice(3, 5))):
        want = bnkern.batch_norm_backward(case.dy[rows], case.x[rows], (mean[i], var[i], None), frozen=True)
        assert same_bits(got.dx[rows], want.dx)


def test_vjp_knows_the_ghost_batches_and_inference_has_none():
    case = cases.make((6, 4, 5), 1)
    _, stats, vjp = bnkern.batch_norm_vjp(case.x, ghost_batch_size=4)
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, ghost_batch_size=4)
    assert same_bits(vjp(case.dy).dx, want.dx)
    running = {"running_mean": case.bias, "running_var": case.weight**2}
    fixed = [bnkern.batch_norm_vjp(case.x, training=False, ghost_batch_size=n, **running) for n in (None, 4)]
    assert same_bits(fixed[0][0], fixed[1][0])
    assert same_bits(fixed[0][2](case.dy).dx, fixed[1][2](case.dy).dx)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_no_bit(threads):
    case = cases.make((9, 16, 40, 40), 1)
    want, _ = bnkern.batch_norm_train(case.x, ghost_batch_size=4)
    with bnkern.threads(threads):
        got, _ = bnkern.batch_norm_train(case.x, ghost_batch_size=4)
    assert same_bits(got, want)


def test_what_is_refused_before_anything_is_written():
    case = cases.make((6, 4, 5), 1)
    out = np.full_like(case.x, 7)
    train = [
        (TypeError, "ghost_batch_size: expected an integer, got float 2.0", {"ghost_batch_size": 2.0}),
        (TypeError, "ghost_batch_size: expected an integer, got bool True", {"ghost_batch_size": True}),
        (ValueError, "ghost_batch_size: expected an integer >= 1, got 0", {"ghost_batch_size": 0}),
        (ValueError, "ghost_batch_size: expected None for channels in axis 0", {"ghost_batch_size": 2, "axis": 0}),
        (ValueError, "ghost_batch_size: expected None for channels in axis 0", {"ghost_batch_size": 2, "axis": -3}),
    ]
    for error, words, options in train:
        with pytest.raises(error, match=words):
            bnkern.batch_norm_train(case.x, out=out, **options)
    with pytest.raises(ValueError, match=r"got 1 in ghost batch 1 of 2 for shape \(6, 4\); choose a size"):
        bnkern.batch_norm_train(case.x[:, :, 0], out=out[:, :, 0], ghost_batch_size=5)

    whole = bnkern.batch_stats(case.x)
    _, stats = bnkern.batch_norm_train(case.x, ghost_batch_size=4)

    def other_count(count):
        return stats._replace(count=count)

    backward = [
        (ValueError, r"stats.mean: expected shape \(2, 4\) \(ghost batches and channels", whole),
        (ValueError, r"stats.count\[0\]: expected 20, the values per channel of x there, got 5", other_count((5, 25))),
        (ValueError, "stats.count: expected 2 entries", other_count((30,))),
        (TypeError, "stats.count: expected a tuple, the values per channel of each gho.*got int 30", other_count(30)),
        (TypeError, "stats.var: expected dtype", stats._replace(var=stats.var.astype(int))),
    ]  # fmt: skip
    for error, words, given_stats in backward:
        with pytest.raises(error, match=words):
            bnkern.batch_norm_backward(case.dy, case.x, given_stats, ghost_batch_size=4, out=out)
    with pytest.raises(ValueError, match=r"stats.mean: expected shape \(4,\)"):
        bnkern.batch_norm_backward(case.dy, case.x, stats, out=out)
    assert np.all(out == 7)

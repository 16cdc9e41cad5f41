"""One suite over every kind of array: each public function gives NumPy's results, as the same kind of array."""

import numpy as np
import pytest
from helpers import cases, oracle
from helpers.compare import LD, assert_close, grad_scales, same_bits, spacing, y_scale
from helpers.libraries import INSTALLED, Backend

import bnkern
from bnkern._dtypes import DTYPES
from bnkern.arrays import kinds

SHAPES = [((4, 6), 1), ((5, 3, 7), 1), ((3, 5, 4, 7), 1), ((3, 4, 7, 5), -1), ((2, 3, 4, 3, 5), 1), ((3, 5, 4), 0)]
NAMES = ("x", "dy", "weight", "bias", "residual", "mean", "var", "conv")
LADDER = [0, 1e2, 1e4, 1e6, -3e5]


def arrays_of(case, backend):
    """What the functions below are called with, as arrays of this kind."""
    rng = np.random.default_rng(1)
    conv = rng.standard_normal((case.channels, 2, 3)).astype(case.x.dtype)
    named = {"x": case.x, "dy": case.dy, "weight": case.weight, "bias": case.bias, "residual": case.residual}
    named |= {"mean": case.bias, "var": case.weight**2, "conv": conv}
    return {name: backend.make(a) for name, a in named.items()}


def every_function(axis):
    """A function from arrays to every result by name; those with a star the array API computes in any library."""

    def call(a):
        x, dy, w, b, r, mean, var, conv = (a[name] for name in NAMES)
        how, relu = {"axis": axis}, {"axis": axis, "activation": "relu"}
        result = {}
        result["y"], stats = bnkern.batch_norm_train(x, weight=w, bias=b, **how)
        result["relu y"], _ = bnkern.batch_norm_train(x, weight=w, residual=r, **relu)
        result["inference y"] = bnkern.batch_norm_inference(
            x, running_mean=mean, running_var=var, weight=w, bias=b, eps=1e-3, **how
        )
        result["mean"], result["var"], _ = bnkern.batch_stats(x, **how)

        grads = {
            "": bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, **how),
            "frozen ": bnkern.batch_norm_backward(dy, x, (mean, var, None), weight=w, bias=b, frozen=True, **relu),
            "residual ": bnkern.batch_norm_backward(
                dy, x, stats, weight=w, bias=b, y=result["relu y"], needs=("x", "weight", "bias", "residual"), **relu
            ),
            "dx alone ": bnkern.batch_norm_backward(dy, x, (mean, var, None), frozen=True, needs=("x",), **how),
            "sums alone ": bnkern.batch_norm_backward(dy, x, stats, weight=w, needs=("weight", "bias"), **how),
        }
        for name, values in grads.items():
            result |= {name + key: value for key, value in values._asdict().items() if value is not None}
        sums = bnkern.backward_reduce(dy, x, stats, weight=w, bias=b, **how)
        result |= sums._asdict()
        result["applied dx"] = bnkern.backward_apply(dy, x, stats, sums, weight=w, bias=b, **how)

        whole = bnkern.merge_stats([stats, bnkern.batch_stats(dy, **how)])
        result["merged mean*"], result["merged var*"] = whole.mean, whole.var
        result["running mean*"], result["running var*"] = bnkern.update_running(
            stats, running_mean=mean, running_var=var
        )
        result["folded weight*"], result["folded bias*"] = bnkern.fold_batch_norm(
            conv, conv_bias=b, running_mean=mean, running_var=var, weight=w, bias=b
        )
        return result

    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=cases.label)
def test_every_function(backend, shape, axis, dtype):
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend}: no {dtype}")
    case = cases.make(shape, axis, dtype)
    given = arrays_of(case, backend)
    got = backend.run(every_function(axis), given)
    want = every_function(axis)(arrays_of(case, Backend.NUMPY))
    assert got.keys() == want.keys()
    for name, expected in want.items():
        assert type(got[name]) is type(given["x"]) or backend is Backend.JAX_JIT, name
        if expected.shape == shape:
            backend.like(got[name], given["x"])
        actual = backend.back(got[name])
        narrow = backend is Backend.JAX_32 and expected.dtype == np.float64
        assert actual.dtype == (np.float32 if narrow else expected.dtype), name
        if backend.same_bits and not name.endswith("*"):
            assert same_bits(actual, expected), name
        else:
            terms = case.x.size / case.channels if expected.ndim == 1 else 1  # of about 1, that may cancel
            unit = spacing(np.maximum(np.abs(expected.astype(float)).max(), terms), dtype)
            assert np.abs(actual.astype(float) - expected.astype(float)).max() <= 8 * unit, name


@pytest.mark.parametrize("offset", LADDER, ids="{:g}".format)
def test_accuracy_ladder(backend, offset):
    """float32 of any offset, to the limits of tests/test_accuracy.py, on the generic path too."""
    if backend is Backend.JAX_32:
        pytest.skip(f"{backend}: statistics are float32 there, and hold no mean of 1e6 to its last place")
    case = cases.make((5, 3, 33), 1)
    x = (case.x + np.float32(offset)).astype(np.float32)
    arrays = {"x": x, "dy": case.dy, "weight": case.weight, "bias": case.bias}

    def call(a):
        y, stats = bnkern.batch_norm_train(a["x"], weight=a["weight"], bias=a["bias"])
        return y, *bnkern.batch_norm_backward(a["dy"], a["x"], stats, weight=a["weight"], bias=a["bias"])[:3]

    got = backend.run(call, {name: backend.make(a) for name, a in arrays.items()})
    y, dx, dweight, dbias = (backend.back(a) for a in got)
    mean, var, _ = oracle.stats(x, 1, LD)
    expected = oracle.forward(x, mean, var, case.weight, case.bias, dtype=LD)
    assert_close(y, expected, y_scale(x, mean, var, case.weight, case.bias), "y")
    want = oracle.backward(case.dy, x, mean, var, case.weight, dtype=LD)
    scales = grad_scales(case.dy, x, mean, var, case.weight)
    for name, actual, scale in zip(("dx", "dweight", "dbias"), (dx, dweight, dbias), scales, strict=True):
        assert_close(actual, getattr(want, name), scale, name)


def test_training_is_inference_with_its_statistics(backend):
    if backend is Backend.JAX_32:
        pytest.skip(f"{backend}: the statistics it returns are rounded to float32")
    case = cases.make((4, 5, 6, 3), 1)

    def both(a):
        y, _ = bnkern.batch_norm_train(a["x"], weight=a["weight"])
        mean, var, _ = bnkern.batch_stats(a["x"])
        return y, bnkern.batch_norm_inference(a["x"], running_mean=mean, running_var=var, weight=a["weight"])

    y, again = backend.run(both, {"x": backend.make(case.x), "weight": backend.make(case.weight)})
    assert same_bits(backend.back(y), backend.back(again))


# ---------------------------------------------------------------- what is written in place


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_and_running_buffers(backend, dtype):
    """Where arrays can be written they are, to NumPy's bits; where not, the error names what to do instead."""
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend}: no {dtype}")
    case = cases.make((4, 5, 6, 3), 1, dtype)
    names = {"x": case.x, "w": case.weight, "mean": case.bias, "var": case.weight**2, "out": np.full_like(case.x, 7)}
    a = {name: backend.make(value) for name, value in names.items()}

    def running(a):
        return bnkern.batch_norm_train(a["x"], weight=a["w"], running_mean=a["mean"], running_var=a["var"])

    def out(a):
        return bnkern.batch_norm_train(a["x"], weight=a["w"], out=a["out"])

    if not backend.writable:
        with pytest.raises(ValueError, match=r"running_mean: .*bnkern\.update_running"):
            backend.run(running, a)
        with pytest.raises(ValueError, match=r"out: .*out=None"):
            backend.run(out, a)
        for name, value in names.items():
            assert same_bits(backend.back(a[name]), value)
        return
    y, stats = backend.run(running, a)
    filled, _ = backend.run(out, a)
    assert filled is a["out"]
    assert same_bits(backend.back(filled), backend.back(y))
    new = bnkern.update_running(
        [*map(backend.back, stats[:2]), stats.count], running_mean=names["mean"], running_var=names["var"]
    )
    assert same_bits(backend.back(a["mean"]), new[0])
    assert same_bits(backend.back(a["var"]), new[1])


@pytest.mark.parametrize("which", ["dy", "x", "y"])
def test_gradient_in_place(backend, which):
    if not backend.writable:
        pytest.skip(f"{backend} is not written: test_out_and_running_buffers")
    case = cases.make((4, 5, 6, 3), 1)
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, activation="relu")
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, y=y, activation="relu")
    a = {"dy": backend.make(case.dy), "x": backend.make(case.x), "y": backend.make(y)}
    given, weight = [*map(backend.make, stats[:2]), stats.count], backend.make(case.weight)
    dx = bnkern.batch_norm_backward(a["dy"], a["x"], given, weight=weight, y=a["y"], activation="relu", out=a[which]).dx
    assert dx is a[which]
    np.testing.assert_allclose(backend.back(dx), want.dx, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (4, 0, 5)], ids=cases.label)
def test_no_elements(backend, shape):
    def call(a):
        y, stats = bnkern.batch_norm_train(a["x"], weight=a["w"], activation="relu")
        grads = bnkern.batch_norm_backward(a["x"], a["x"], stats, weight=a["w"], activation="relu")
        return y, stats.mean, grads.dx, grads.dweight

    a = {"x": np.empty(shape, np.float32), "w": np.ones(shape[1], np.float32)}
    y, mean, dx, dweight = map(backend.back, backend.run(call, {name: backend.make(v) for name, v in a.items()}))
    assert y.shape == dx.shape == shape
    assert mean.shape == dweight.shape == (shape[1],)
    assert not dweight.any()


# ---------------------------------------------------------------- what is refused


def test_nothing_leaves_its_device(backend, monkeypatch):
    """No method that copies to the host, converts or computes is called: each raises."""
    if backend.kind.engines == ("cpu",) and backend.kind.adapter is None:
        pytest.skip(f"{backend}: its memory is the host's")
    case = cases.make((4, 5, 6), 1)
    given = arrays_of(case, backend)

    def poisoned(self, *args, **kwargs):
        raise AssertionError("an array was copied to the host or computed")

    for name in ("__array__", "get", "cpu", "compute", "item", "tolist", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(type(given["x"]), name, poisoned, raising=False)
    backend.run(every_function(1), given)


OTHERS = [b for b in (Backend.NUMPY, Backend.TORCH, Backend.JAX, Backend.DASK, Backend.STRICT) if b.installed]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_mixed_kinds(backend, other):
    """One TypeError that names both, whichever argument it is; nothing is converted."""
    if other.row == backend.row or (other.package == backend.package and other is not Backend.NUMPY):
        pytest.skip(f"{backend} and {other} are one library")
    case = cases.make((4, 5, 6), 1)
    _, stats = bnkern.batch_norm_train(case.x)

    def words(b):
        return b.row[0]

    def fails(call, argument):
        with pytest.raises(TypeError) as caught:
            backend.run(call, {"x": backend.make(case.x), "w": backend.make(case.weight)})
        for word in (argument, f"an array of {words(backend)}", f"one of {words(other)}"):
            assert word in str(caught.value), caught.value

    theirs, vector = other.make(case.dy), other.make(case.weight)
    wrong = bnkern.BatchStats(other.make(stats.mean), other.make(stats.var), stats.count)
    fails(lambda a: bnkern.batch_norm_train(a["x"], weight=vector), "weight")
    fails(lambda a: bnkern.batch_norm_train(a["x"], weight=a["w"], residual=theirs), "residual")
    fails(lambda a: bnkern.batch_norm_train(a["x"], weight=a["w"], out=theirs), "out")
    fails(lambda a: bnkern.batch_norm_inference(a["x"], running_mean=vector, running_var=vector), "running_mean")
    fails(lambda a: bnkern.batch_norm_backward(theirs, a["x"], bnkern.batch_stats(a["x"])), "dy")
    fails(lambda a: bnkern.batch_norm_backward(a["x"], a["x"], wrong), "stats.mean")
    fails(lambda a: bnkern.merge_stats([bnkern.batch_stats(a["x"]), wrong]), "parts[1].mean")
    fails(lambda a: bnkern.update_running(wrong, running_mean=a["w"], running_var=a["w"]), "stats.mean")
    fails(lambda a: bnkern.fold_batch_norm(a["x"], running_mean=vector, running_var=vector), "running_mean")


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_wrong_dtype(backend, dtype):
    with pytest.raises(TypeError, match="x: expected dtype float32"):
        backend.run(lambda a: bnkern.batch_stats(a["x"]), {"x": backend.make(np.ones((4, 3), dtype))})


def test_wrong_shapes(backend):
    a = {"x": backend.make(np.ones((4, 3), np.float32)), "w": backend.make(np.ones(4, np.float32))}
    with pytest.raises(ValueError, match=r"weight: expected shape \(3,\)"):
        backend.run(lambda a: bnkern.batch_norm_train(a["x"], weight=a["w"]), a)
    with pytest.raises(ValueError, match=r"dy: expected shape \(4, 3\)"):
        backend.run(lambda a: bnkern.backward_reduce(a["w"], a["x"], bnkern.batch_stats(a["x"])), a)


# ---------------------------------------------------------------- the suite itself


@pytest.mark.parametrize("kind", Backend, ids=str)
def test_the_library_is_installed(kind):
    """What is skipped here, by name, is not in the tests above."""
    if kind not in INSTALLED:
        pytest.skip(f"{kind}: {kind.package} is not installed")


def test_explain_names_the_backend_of_the_declaration(backend):
    told = []
    backend.run(lambda a: told.append(bnkern.explain(a["x"])), {"x": backend.make(np.ones((4, 3), np.float32))})
    assert told[0].engine in backend.kind.engines
    assert len(told[0].refused) == sum(1 for reason in told[0].refused if ": " in reason)


def test_every_kind_is_tried():
    tried = {id(backend.kind) for backend in Backend}
    untried = [kind.title for kind in kinds().values() if not kind.refused and id(kind) not in tried]
    # There is none here; JAX needs a process with several: test_jax_arrays.py; and what speaks DLPack alone comes back
    # as another kind: test_dlpack.py.
    alone = "objects with `__dlpack__` or `__array_interface__` alone (results: NumPy, CuPy)"
    assert untried == ["PyTorch, other devices", "JAX, sharded or on other devices", alone]

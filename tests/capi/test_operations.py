"""Every operation of the C API gives the Python functions' bits, whatever the memory, dtypes and options."""

import ctypes
import platform
import sys

import numpy as np
import pytest
from helpers import c_api, cases
from helpers.compare import same_bits

import bnkern
from bnkern._dtypes import DTYPES

ACTIVATIONS = [None, "relu", "relu6", ("leaky_relu", 0.125), ("leaky_relu", 0.0)]
SHAPES = [((8, 6), 1), ((5, 3, 7), 1), ((3, 5, 40, 70), 1), ((3, 40, 7, 5), -1), ((2, 3, 4, 3, 5), 2), ((3, 5, 4), 0)]


def strided(a):
    """Every second element of a larger array: no kernel's layout."""
    larger = np.empty([2 * n for n in a.shape], a.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def misaligned(a):
    buffer = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = buffer.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def backwards(a):
    """Negative strides."""
    return a[::-1].copy()[::-1]


MEMORY = {
    "plain": lambda a: a.copy(), "strided": strided, "misaligned": misaligned, "backwards": backwards,
    "fortran": lambda a: a.copy(order="F"),
}  # fmt: skip


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=cases.label)
def test_a_training_step(shape, axis, dtype, memory):
    case = cases.make(shape, axis, dtype)
    make = MEMORY[memory]
    how = {"axis": axis, "activation": "relu", "eps": 1e-3}
    vectors = {"weight": case.weight, "bias": case.bias}
    running = {"running_mean": case.bias.copy(), "running_var": (case.weight**2).astype(case.weight.dtype)}
    want_running = {name: a.copy() for name, a in running.items()}
    want_y, stats = bnkern.batch_norm_train(case.x, residual=case.residual, **vectors, **want_running, **how)
    x, dy, residual = make(case.x), make(case.dy), make(case.residual)
    y, mean, var = make(np.full_like(case.x, 7)), np.full(case.channels, 7.0), np.full(2 * case.channels, 7.0)[::-2]
    c_api.run("train", x=x, residual=residual, y=y, mean=mean, var=var, **vectors, **running, **how)
    assert same_bits(np.ascontiguousarray(y), np.ascontiguousarray(want_y))
    assert same_bits(mean, stats.mean)
    assert same_bits(np.ascontiguousarray(var), stats.var)
    for name, expected in want_running.items():
        assert same_bits(running[name], expected), name

    needs = ("x", "weight", "bias", "residual")
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, y=want_y, needs=needs, **vectors, **how)
    dx, dresidual = make(np.full_like(case.x, 7)), make(np.full_like(case.x, 7))
    dweight, dbias = np.full_like(want.dweight, 7), np.full_like(want.dbias, 7)
    got = {"dx": dx, "dresidual": dresidual, "dweight": dweight, "dbias": dbias}
    c_api.run("backward", dy=dy, x=x, y=y, mean=mean, var=var, **got, **vectors, **how)
    for name, a in got.items():
        assert same_bits(np.ascontiguousarray(a), np.ascontiguousarray(getattr(want, name))), name


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("outputs", ["dx", "dweight", "dbias", "dresidual", "dx dresidual", "dweight dresidual"])
def test_gradients_by_which_arrays_are_given(outputs, frozen, activation):
    case = cases.make((4, 5, 33), 1)
    how = {"activation": activation, "axis": 1}
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, residual=case.residual, **how)
    names = outputs.split()
    needs = [name.removeprefix("d") for name in names]
    want = bnkern.batch_norm_backward(
        case.dy, case.x, stats, weight=case.weight, y=y, frozen=frozen, needs=needs, **how
    )
    got = {name: np.full_like(getattr(want, name), 7) for name in names}
    c_api.run(
        "backward", dy=case.dy, x=case.x, y=y, mean=stats.mean, var=stats.var, weight=case.weight,
        flags=c_api.FROZEN * frozen, **got, **how,
    )
    for name in names:
        assert same_bits(got[name], getattr(want, name)), name


def test_gradients_without_x():
    """Statistics that stay fixed leave x out: it need not be kept."""
    case = cases.make((4, 5, 33), 1)
    y = bnkern.batch_norm_inference(case.x, running_mean=case.bias, running_var=case.weight**2, activation="relu")
    want = bnkern.batch_norm_backward(
        case.dy, case.x, (case.bias, case.weight**2, None), frozen=True, needs=("x",), y=y, activation="relu"
    )
    dx = np.empty_like(case.x)
    given = {"dy": case.dy, "y": y, "mean": case.bias, "var": case.weight**2, "activation": "relu"}
    given["flags"] = c_api.FROZEN
    c_api.run("backward", dx=dx, **given)
    assert same_bits(dx, want.dx)
    call = c_api.request(dx=dx, dweight=np.empty(5), **given)
    assert c_api.perform("backward", call)[0] == c_api.MISSING


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_the_work_in_parts(activation):
    """stats, reduce, apply, update_running: what synchronised batch normalisation is made of."""
    case = cases.make((6, 5, 33), 1)
    how = {"activation": activation, "axis": 1}
    vectors = {"weight": case.weight, "bias": case.bias}
    mean, var = np.empty(5), np.empty(5)
    c_api.run("stats", x=case.x, mean=mean, var=var)
    stats = bnkern.batch_stats(case.x)
    assert same_bits(mean, stats.mean)
    assert same_bits(var, stats.var)

    x, dy = case.x[:2].copy(), case.dy[:2].copy()
    want = bnkern.backward_reduce(dy, x, stats, **vectors, **how)
    sums = {"sum_dy": np.empty(5), "sum_dy_xhat": np.empty(5)}
    c_api.run("reduce", dy=dy, x=x, mean=mean, var=var, **vectors, **sums, **how)
    assert same_bits(sums["sum_dy"], want.sum_dy)
    assert same_bits(sums["sum_dy_xhat"], want.sum_dy_xhat)

    dx = np.empty_like(x)
    c_api.run("apply", dy=dy, x=x, dx=dx, mean=mean, var=var, count=stats.count, **vectors, **sums, **how)
    assert same_bits(dx, bnkern.backward_apply(dy, x, stats, want, **vectors, **how))

    running = {"running_mean": case.bias.astype(np.float16), "running_var": case.weight.astype(np.float64)}
    want_mean, want_var = bnkern.update_running(stats, momentum=0.25, correction=0.5, **running)
    c_api.run("update_running", mean=mean, var=var, count=stats.count, momentum=0.25, correction=0.5, **running)
    assert same_bits(running["running_mean"], want_mean)
    assert same_bits(running["running_var"], want_var)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference(dtype):
    case = cases.make((4, 5, 6, 7), 1, dtype)
    given = {"running_mean": case.bias, "running_var": case.weight**2, "weight": case.weight, "residual": case.residual}
    want = bnkern.batch_norm_inference(case.x, activation=("leaky_relu", 0.5), eps=0, **given)
    y = np.empty_like(case.x)
    c_api.run("inference", x=case.x, y=y, activation=("leaky_relu", 0.5), eps=0, **given)
    assert same_bits(y, want)


@pytest.mark.parametrize("which", ["dy", "x", "y"])
def test_in_place(which):
    case = cases.make((4, 5, 33), 1)
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, activation="relu")
    in_place = case.x.copy()
    c_api.run("train", x=in_place, y=in_place, weight=case.weight, activation="relu")
    assert same_bits(in_place, y)
    want = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, y=y, activation="relu").dx
    a = {"dy": case.dy.copy(), "x": case.x.copy(), "y": y.copy()}
    c_api.run("backward", dx=a[which], weight=case.weight, mean=stats.mean, var=stats.var, activation="relu", **a)
    assert same_bits(a[which], want)


def test_views_of_one_buffer_that_share_no_byte():
    """Halves of the channels, interleaved in memory as in a DenseNet's buffer."""
    buffer = np.random.default_rng(0).standard_normal((4, 6, 5, 7)).astype(np.float32)
    x, y = buffer[:, ::2], buffer[:, 1::2]
    want = bnkern.batch_norm_train(x.copy())[0]
    c_api.run("train", x=x, y=y)
    assert same_bits(np.ascontiguousarray(y), want)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (4, 0, 5)], ids=cases.label)
def test_no_elements(shape):
    x, n = np.empty(shape, np.float32), shape[1]
    mean, var, running = np.full(n, 7.0), np.full(n, 7.0), np.full((2, n), 7.0)
    c_api.run("train", x=x, y=x.copy(), mean=mean, var=var, running_mean=running[0], running_var=running[1])
    assert not mean.any()
    assert not var.any()
    assert (running == 7).all()
    dweight = np.full(n, 7.0)
    c_api.run("backward", x=x, dy=x.copy(), dx=x.copy(), mean=mean, var=var, dweight=dweight)
    assert not dweight.any()


def test_threads():
    """The process's number, told without the GIL; results do not depend on it."""
    bnkern.set_num_threads(3)
    assert c_api.API.num_threads() == bnkern.get_num_threads() == 3
    case = cases.make((4, 64, 40, 70), 1)
    want = bnkern.batch_norm_train(case.x)[0]
    for threads in (0, 1, 2, 5):
        y = np.empty_like(case.x)
        c_api.run("train", x=case.x, y=y, threads=threads)
        assert same_bits(y, want)


def in_mode(mode, function):
    """function() with this thread's rounding mode as given."""
    libm = ctypes.CDLL("libm.so.6")
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        return function()
    finally:
        libm.fesetround(before)


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.machine() != "x86_64", reason="glibc's numbers")
def test_running_statistics_in_another_rounding_mode():
    """The caller's mode reaches nothing, the factor of the running variance neither."""
    case = cases.make((16, 8, 40), 1, "float64")
    found = []
    for mode in (0, 0x400, 0x800, 0xC00):  # nearest, down, up, towards 0
        y, mean, var = np.empty_like(case.x), np.full(8, 0.1), np.full(8, 0.3)
        request = c_api.request(x=case.x, y=y, running_mean=mean, running_var=var, momentum=0.3)
        in_mode(mode, lambda request=request: c_api.perform("train", request))
        found.append((y, mean, var))
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            assert same_bits(got, want)

"""Every kernel executed on the CPU by emulation, through the public functions and CuPy's stand-in."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import fake_cupy, gpu_cases
from helpers.cases import LAYOUTS, label, place
from helpers.compare import same_bits

import bnkern

FLOATS = ["float32", "float64"]
VECTORS = ("bn_ema_update", "bn_cast")  # kernels that are the same for every storage type


def problem(shape, axis, dtype, put=fake_cupy.asarray, **options):
    return gpu_cases.Problem(gpu_cases.make(shape, axis, dtype, **options), put, lambda a: a.get())


def run(p):
    """The results whose bits are compared."""
    axis, fused = p.case.axis, {"axis": p.case.axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias, residual=p.residual, **fused)
    needs = ("x", "weight", "bias", "residual")
    grads = bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias, y=y, needs=needs, **fused)
    plain = bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias, axis=axis)
    return [a.get() for a in (y, *stats[:2], *grads, *plain[:3])]


def assert_same(results, others):
    for i, (a, b) in enumerate(zip(results, others, strict=True)):
        assert same_bits(a, b), f"result {i}"


@pytest.mark.parametrize(("shape", "axis"), gpu_cases.SHAPES, ids=label)
def test_against_the_oracle(chip, shape, axis, dtype):
    problem(shape, axis, dtype).check()
    assert {name.rpartition("_")[2] for name, *_ in chip.launches if name not in VECTORS} == {dtype}


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6, -3e5])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 30, 31), 1), ((300, 5), -1)], ids=label)
def test_offsets_keep_their_digits(chip, shape, axis, offset):
    p = problem(shape, axis, "float32", offset=offset)
    p.check_stats()
    p.check_forward()
    p.check_backward()


@pytest.mark.parametrize("spread", [1e-30, 1e20, 3e29])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 30, 31), 1), ((300, 5), -1)], ids=label)
def test_far_scales(chip, shape, axis, spread):
    p = problem(shape, axis, "float32", spread=spread)
    p.check_forward()
    p.check_backward()


@pytest.mark.parametrize("at", [0, 1, 17, 1859])
def test_an_outlier_anywhere(chip, at):
    case = gpu_cases.make((2, 3, 30, 31), 1, "float32")
    n, rest = divmod(at, 30 * 31)
    case.x[n, 1].reshape(-1)[rest] = 1e6
    p = gpu_cases.Problem(case, fake_cupy.asarray, lambda a: a.get())
    p.check_forward()
    p.check_backward()


@pytest.mark.parametrize("value", [0.0, 1234.567, -7e-8])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 11, 13), 1), ((500, 7), -1), ((40, 3, 5), 1)], ids=label)
def test_a_constant_channel_gives_bias(chip, shape, axis, dtype, value):
    case = gpu_cases.make(shape, axis, dtype)
    case.x[...] = value
    x, weight, bias = map(fake_cupy.asarray, (case.x, case.weight, case.bias))
    y, stats = bnkern.batch_norm_train(x, weight=weight, bias=bias, axis=axis)
    assert (stats.var.get() == 0).all()
    assert (stats.mean.get() == case.x.ravel()[0].astype(np.float64)).all()
    assert (np.moveaxis(y.get(), axis, -1) == case.bias).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 11, 13), 1), ((500, 7), -1), ((40, 3, 5), 1)], ids=label)
def test_not_finite_values_stay_in_their_channel(chip, shape, axis, dtype, value):
    case = gpu_cases.make(shape, axis, dtype)
    channel = np.moveaxis(case.x, axis, 0)
    whole = run(gpu_cases.Problem(case, fake_cupy.asarray, lambda a: a.get()))
    channel[1, ..., -1] = value
    y, mean, var, dx, dweight, *_ = run(gpu_cases.Problem(case, fake_cupy.asarray, lambda a: a.get()))
    others = np.arange(case.channels) != 1
    assert same_bits(np.moveaxis(y, axis, 0)[others], np.moveaxis(whole[0], axis, 0)[others])
    assert same_bits(np.moveaxis(dx, axis, 0)[others], np.moveaxis(whole[3], axis, 0)[others])
    assert np.isnan(np.moveaxis(y, axis, 0)[1].astype(float)).any()
    np.testing.assert_equal(mean[1], value)
    assert np.isnan(var[1])
    assert np.isfinite(dweight[others].astype(float)).all()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_memory_orders(chip, layout, dtype):
    """Results in x's memory order, and right, whatever the strides."""
    move = LAYOUTS[layout]

    def put(a):
        return fake_cupy.ndarray(move(a.copy())) if a.ndim > 1 else fake_cupy.asarray(a)

    p = problem((3, 4, 6, 5), 1, dtype, put)
    p.check()
    y, _ = bnkern.batch_norm_train(p.x)
    assert y.strides == np.empty_like(p.x._host).strides
    told = bnkern.explain(p.x)
    assert told.engine == "cuda"
    assert ("copied once" in told.note) == (layout in ("strided", "backwards", "row-padded"))


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 9, 13), 1), ((41, 12), -1), ((19, 33), -1), ((33, 5, 7), 1)], ids=label
)
def test_misaligned(chip, shape, axis, dtype, offset):
    """Data from any element after a 16-byte boundary on, dy from another than x."""
    where = iter([offset, offset + 1, offset, 1, 3])

    def put(a):
        return fake_cupy.ndarray(place(a, a.itemsize * next(where, 0)))

    problem(shape, axis, dtype, put).check()


def test_an_address_between_elements(chip):
    def put(a):
        return fake_cupy.ndarray(place(a, 2)) if a.ndim > 1 else fake_cupy.asarray(a)

    problem((3, 4, 5), 1, "float32", put).check()


@pytest.mark.skipif(not os.environ.get("BNKERN_EMULATION_SANITISED"), reason="the emulation is not sanitised")
@pytest.mark.parametrize("layout", ["cf", "cl"])
def test_the_sanitiser_sees_a_read_beyond(layout):
    """The instrument itself: a geometry of one element too many ends the process."""
    shape = (2, 3, 11, 13) if layout == "cf" else (22, 13, 3)
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import numpy as np
import bnkern
from helpers import fake_cupy
from bnkern.engines import cuda
with fake_cupy.installed():
    x = fake_cupy.asarray(np.ones({shape}, np.float32))
    bnkern.batch_stats(x, axis={1 if layout == "cf" else -1})
    print("so far so good", flush=True)
    true = cuda.geometry
    cuda.geometry = lambda outer, *rest: true(outer + 1, *rest)
    bnkern.batch_stats(x, axis={1 if layout == "cf" else -1})
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "so far so good" in done.stdout, done.stderr
    assert done.returncode != 0
    assert "AddressSanitizer: heap-" in done.stderr


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), gpu_cases.SHAPES, ids=label)
def test_same_bits_however_it_is_launched(chip, shape, axis, dtype):
    """Order of threads, size of the device, one launch or three, kept on chip or not: all the same to the bit.

    Threads that run in the other order would see a missing barrier.
    """
    p = problem(shape, axis, dtype)
    first = run(p)
    assert_same(run(p), first)
    chip.order = 1
    assert_same(run(p), first)
    for change in ({"multiprocessors": 1, "blocks": 1}, {"shared": 36 * 1024}, {"cooperative": False}):
        with fake_cupy.installed(fake_cupy.Chip(**change)) as other:
            assert_same(run(problem(shape, axis, dtype)), first)
            assert other.launches


@pytest.mark.parametrize(("shape", "axis"), [((6, 40, 24, 24), 1), ((900, 260), -1)], ids=label)
def test_many_units_for_each_worker(chip, shape, axis):
    """A device with room for a part only of what its workers take: the rest is read again."""
    p = problem(shape, axis, "float32")
    p.check()
    with fake_cupy.installed(fake_cupy.Chip(multiprocessors=1, blocks=1, shared=60 * 1024)):
        p = problem(shape, axis, "float32")
        p.check()


def test_one_launch_for_a_small_call(chip):
    p = problem((2, 32, 14, 14), 1, "float32")
    bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias)
    stats = bnkern.batch_stats(p.x)
    bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias)
    bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias, frozen=True, needs=("x",))
    bnkern.batch_norm_inference(p.x, running_mean=stats.mean, running_var=stats.var)
    passes = [launch for launch in chip.launches if launch[0] not in VECTORS]  # sums to weight's dtype
    assert [(name, cooperative) for name, _, _, cooperative in passes] == [
        ("bn_forward_cf_float32", True),
        ("bn_forward_cf_float32", True),
        ("bn_backward_cf_float32", True),
        ("bn_backward_cf_float32", False),  # one pass: no barrier
        ("bn_forward_cf_float32", False),
    ]


@pytest.mark.parametrize("running_dtype", [*FLOATS, "float16", "bfloat16"])
def test_running_statistics_in_place_whatever_their_strides(chip, running_dtype):
    if running_dtype == "bfloat16":
        running_dtype = pytest.importorskip("ml_dtypes").bfloat16
    p = problem((4, 300, 3), 1, running_dtype)
    mean = fake_cupy.asarray(np.zeros((300, 2), running_dtype))[:, 0]
    var = fake_cupy.asarray(np.ones(300, running_dtype))[::-1]
    bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias, running_mean=mean, running_var=var, momentum=0.25)
    unit = float(gpu_cases.steps_of(1.0, np.dtype(running_dtype).name))
    np.testing.assert_allclose(mean.get().astype(float), 0.25 * p.mean.astype(float), rtol=unit, atol=1e-7)
    expected = 0.75 + 0.25 * (p.var * p.count / (p.count - 1)).astype(float)
    np.testing.assert_allclose(var.get().astype(float), expected, rtol=2 * unit)

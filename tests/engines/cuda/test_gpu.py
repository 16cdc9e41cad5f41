"""The GPU path on a GPU: skipped by name where there is none.

    python -m pytest -m gpu tests/engines/cuda
    compute-sanitizer --tool memcheck python -m pytest -m gpu tests/engines/cuda -k "oracle and 1x"
    compute-sanitizer --tool racecheck python -m pytest -m gpu tests/engines/cuda -k "oracle and 1x"
"""

import numpy as np
import pytest
from helpers import gpu_cases
from helpers.cases import LAYOUTS, label
from helpers.compare import same_bits

import bnkern

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("all_dtypes")]

LARGE = [
    ((64, 64, 56, 56), 1),
    ((64, 56, 56, 64), -1),
    ((128, 512, 7, 7), 1),
    ((8, 3, 512, 512), 1),
    ((4096, 2048), -1),
]


@pytest.fixture
def cupy():
    import cupy

    return cupy


@pytest.fixture
def torch(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch


def problem(shape, axis, dtype, **options):
    import cupy

    return gpu_cases.Problem(gpu_cases.make(shape, axis, dtype, **options), cupy.asarray, cupy.asnumpy)


def results(p):
    fused = {"axis": p.case.axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias, residual=p.residual, **fused)
    needs = ("x", "weight", "bias", "residual")
    grads = bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias, y=y, needs=needs, **fused)
    return [p.get(a) for a in (y, *stats[:2], *grads)]


@pytest.mark.parametrize(("shape", "axis"), gpu_cases.SHAPES, ids=label)
def test_against_the_oracle(shape, axis, dtype):
    problem(shape, axis, dtype).check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), LARGE, ids=label)
def test_large_against_the_oracle(shape, axis, dtype):
    p = problem(shape, axis, dtype)
    p.check_stats()
    p.check_forward()
    p.check_backward()


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_offsets(offset):
    for shape, axis in LARGE[:2]:
        p = problem(shape, axis, "float32", offset=offset)
        p.check_stats()
        p.check_forward()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_memory_orders(cupy, layout):
    def put(a):
        host = LAYOUTS[layout](a.copy()) if a.ndim > 1 else a
        if host.base is None:
            return cupy.asarray(host)
        base = host
        while base.base is not None:
            base = base.base
        there = cupy.asarray(base)  # the same view of the same memory
        start = host.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        return cupy.ndarray(host.shape, host.dtype, there.data + start, host.strides)

    gpu_cases.Problem(gpu_cases.make((3, 4, 6, 5), 1, "float32"), put, cupy.asnumpy).check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), LARGE, ids=label)
def test_same_bits_from_run_to_run(shape, axis, dtype):
    p = problem(shape, axis, dtype)
    first = results(p)
    for _ in range(10):
        for a, b in zip(results(p), first, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize(("shape", "axis"), gpu_cases.SHAPES, ids=label)
def test_the_emulation_has_the_same_bits(shape, axis, dtype):
    """What the tests without a GPU execute is what the GPU does."""
    from helpers import emulator, fake_cupy

    if emulator.compiler() is None:
        pytest.skip("the emulation needs g++")
    here = results(problem(shape, axis, dtype))
    with fake_cupy.installed():
        there = results(gpu_cases.Problem(gpu_cases.make(shape, axis, dtype), fake_cupy.asarray, lambda a: a.get()))
    for a, b in zip(here, there, strict=True):
        assert same_bits(a, b)


def test_a_side_stream(cupy):
    p = problem((16, 64, 56, 56), 1, "float32")
    expected = results(p)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y, stats = bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias, residual=p.residual, activation="relu")
        event = stream.record()
    event.synchronize()  # of that stream alone
    with stream:
        for a, b in zip((y, *stats[:2]), expected, strict=False):
            assert same_bits(cupy.asnumpy(a, stream=stream), b)


def test_a_captured_graph_computes_again(cupy):
    p = problem((16, 64, 28, 28), 1, "float32")
    stream, y, dx = cupy.cuda.Stream(non_blocking=True), cupy.empty_like(p.x), cupy.empty_like(p.x)

    def step():
        _, stats = bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias, out=y)
        return stats, bnkern.batch_norm_backward(p.dy, p.x, stats, weight=p.weight, bias=p.bias, out=dx)

    cupy.cuda.Device().synchronize()  # the uploads: this stream does not wait for the one they are on
    with stream:
        step()
        stream.begin_capture()
        held = step()
        graph = stream.end_capture()
        p.x *= 3
        others = [cupy.full(n, 7, np.float64) for n in 100 * [64, 2**16]]  # would be what the graph writes to
        graph.launch(stream)
        stream.synchronize()
        assert all((a == 7).all() for a in others)
        again = y.copy(), dx.copy()
        fresh = step()
        stream.synchronize()
        assert same_bits(cupy.asnumpy(again[0]), cupy.asnumpy(y))
        assert same_bits(cupy.asnumpy(again[1]), cupy.asnumpy(dx))
        assert same_bits(cupy.asnumpy(held[0].mean), cupy.asnumpy(fresh[0].mean))


def test_another_device(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    with cupy.cuda.Device(1):
        p = problem((4, 8, 5, 5), 1, "float32")
    with cupy.cuda.Device(0):
        y, stats = bnkern.batch_norm_train(p.x, weight=p.weight, bias=p.bias)
        assert cupy.cuda.runtime.getDevice() == 0
    assert y.device.id == stats.mean.device.id == 1
    p.check()


@pytest.mark.parametrize("axis", [1, -1])
def test_more_than_2_to_the_31_elements(cupy, axis):
    """The first and the last channel, in float16, against numbers known beforehand."""
    channels, count = 4, 2**29 + 1027
    if cupy.cuda.runtime.memGetInfo()[0] < 4 * channels * count * 2:
        pytest.skip("needs 18 GB of free device memory")
    x = cupy.zeros((1, channels, count) if axis == 1 else (1, count, channels), np.float16)
    channel = cupy.moveaxis(x, axis, 0)
    channel[:, :, 1::2] = 2  # mean 1, up to the odd count; variance 1
    channel[-1, :, -1] = 1000
    y, stats = bnkern.batch_norm_train(x, axis=axis)
    odd = count // 2 / count
    np.testing.assert_allclose(stats.mean.get()[:-1], 2 * odd, rtol=1e-9)
    np.testing.assert_allclose(stats.var.get()[:-1], 4 * odd * (1 - odd), rtol=1e-9)
    np.testing.assert_allclose(stats.mean.get()[-1], 2 * odd + 1000 / count, rtol=1e-9)
    last = cupy.moveaxis(y, axis, 0)[-1, 0, -2:].get().astype(float)
    expected = (np.array([2, 1000]) - stats.mean.get()[-1]) / np.sqrt(stats.var.get()[-1] + 1e-5)
    np.testing.assert_allclose(last, expected, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("order", ["contiguous", "channels last"])
def test_torch_tensors(torch, cupy, dtype, order):
    """Against PyTorch's own, on a stream of PyTorch's that is not the default."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.randn(8, 16, 12, 14, device="cuda").to(getattr(torch, dtype))
        if order == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        y, (mean, _, _) = bnkern.batch_norm_train(x)
        assert bnkern.explain(x).engine == "cuda"
        expected = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
        torch.testing.assert_close(y, expected.to(x.dtype), rtol=1e-2 if x.element_size() == 2 else 1e-4, atol=1e-5)
        torch.testing.assert_close(mean, x.double().mean((0, 2, 3)))
    assert y.stride() == x.stride()


def test_a_fork_after_use_is_told_what_to_do(cupy, python):
    code = """
import os, sys
import cupy, bnkern
x = cupy.ones((4, 3, 5), "float32")
bnkern.batch_stats(x)
child = os.fork()
if child == 0:
    try:
        bnkern.batch_stats(x)
    except RuntimeError as error:
        os._exit(0 if "spawn" in str(error) else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    python(code)

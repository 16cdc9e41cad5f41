"""The host's side of the GPU path: scratch, streams, graphs, forks, tensors of PyTorch."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers import fake_cupy, gpu_cases
from helpers.compare import same_bits

import bnkern
from bnkern import _dispatch
from bnkern._call import NORMALISE, STATS, new_call
from bnkern.arrays import torch as torch_arrays
from bnkern.arrays import torch_cuda
from bnkern.checks.problem import problem
from bnkern.engines import cuda
from bnkern.engines.cuda import launch


def small():
    return gpu_cases.Problem(gpu_cases.make((4, 3, 5, 5), 1, "float32"), fake_cupy.asarray, lambda a: a.get())


def test_scratch_is_kept_for_each_stream(chip):
    p = small()
    for stream in (0, 7, 0, 7):
        chip.stream = stream
        bnkern.batch_stats(p.x)
    assert sorted(launch._own.scratch) == [(0, 0), (0, 7)]
    held = launch._own.scratch[0, 7][0]
    bnkern.batch_stats(p.x)
    assert launch._own.scratch[0, 7][0] is held


def test_scratch_grows(chip, monkeypatch):
    monkeypatch.setattr(launch, "_zeros", lambda n: fake_cupy.ndarray(np.zeros(256 + n, np.uint8)))
    for shape in ((4, 3, 5, 5), (4, 300, 5, 5), (4, 3, 5, 5)):
        p = gpu_cases.Problem(gpu_cases.make(shape, 1, "float32"), fake_cupy.asarray, lambda a: a.get())
        p.check_stats()
    assert launch._own.scratch[0, 0][0].nbytes == 256 + 300 * 24


@pytest.mark.parametrize("capturing", [True, False])
def test_what_a_captured_call_allocates_is_held(chip, monkeypatch, capturing):
    """Results, float64 sums, temporaries, scratch: a graph writes to all of it whenever it is replayed."""
    cupy, made = sys.modules["cupy"], []

    def remembering(allocate):
        def call(*args, **options):
            made.append(allocate(*args, **options))
            return made[-1]

        return call

    p = small()
    spread = fake_cupy.ndarray(np.ones((4, 3, 5, 10), np.float32)[..., ::2])  # copied by every call
    stats = bnkern.batch_stats(p.x)
    launch._own.scratch.clear()
    for name in ("empty", "empty_like", "zeros"):
        monkeypatch.setattr(cupy, name, remembering(getattr(cupy, name)))
    monkeypatch.setattr(launch, "_captured", [])
    chip.stream, chip.capturing = 7, capturing
    bnkern.batch_stats(p.x)
    bnkern.batch_norm_train(spread, weight=p.weight, bias=p.bias, activation="relu")
    bnkern.batch_norm_backward(p.dy, spread, stats, weight=p.weight, bias=p.bias, out=p.x)
    assert len(made) >= 12
    held = {id(a) for a in launch._captured}
    if capturing:
        assert {id(a) for a in made} <= held
        assert not launch._own.scratch, "shared with calls that are not captured"
    else:
        assert not held


def test_barriers_leave_the_scratch_as_it_was(chip):
    """All but the highest bit of the barrier's word are 0 after any number of launches."""
    p = small()
    for _ in range(3):
        bnkern.batch_norm_train(p.x)
    word = launch._own.scratch[0, 0][0].get()[:4].view(np.uint32)[0]
    assert word & 0x7FFFFFFF == 0


@pytest.mark.filterwarnings("ignore:.*fork.*")  # JAX, where another test loaded it, has its own word on that
def test_a_fork_after_use_is_told_what_to_do(chip):
    p = small()
    bnkern.batch_stats(p.x)
    child = os.fork()
    if child == 0:
        try:
            bnkern.batch_stats(p.x)
        except RuntimeError as error:
            os._exit(0 if "spawn" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_one_kernel_is_loaded_once(chip):
    p = small()
    for _ in range(3):
        bnkern.batch_norm_train(p.x)
    assert launch._module.cache_info().misses == 1


def test_empty_and_mixed_arrays(chip):
    empty = fake_cupy.asarray(np.zeros((0, 3, 4), np.float32))
    y, stats = bnkern.batch_norm_train(empty)
    assert y.shape == (0, 3, 4)
    assert stats.count == 0
    with pytest.raises(TypeError, match="weight"):
        bnkern.batch_norm_train(small().x, weight=np.ones(3, np.float32))


def test_neither_cupy_nor_torch_is_imported():
    code = """
import sys
import bnkern.engines.cuda, bnkern.arrays.torch_cuda
assert "cupy" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("order", ["contiguous", "channels last", "strided"])
def test_tensors_are_lent_as_they_lie(chip, monkeypatch, dtype, order):
    """CPU tensors in the place of CUDA ones: same memory, same strides, PyTorch's stream, results on new memory."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 1234}))
    torch_cuda._external.cache_clear()
    x = torch.arange(4 * 3 * 6 * 5, dtype=torch.float32).sin().reshape(4, 3, 6, 5).to(getattr(torch, dtype))
    if order == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    if order == "strided":
        x = torch.stack([x, x], -1)[..., 1]
    lent = torch_cuda.export(x)
    assert lent.data.ptr == x.data_ptr()
    assert lent.strides == tuple(s * x.element_size() for s in x.stride())
    call = new_call(problem(x, 1, 1e-5), STATS | NORMALISE, x)
    adapter = torch_arrays.Torch.kinds["cuda"].adapter
    adapter = adapter._replace(around=lambda x: torch_cuda._stream_of(0))  # a CPU tensor's device has no number
    y, mean, *_ = _dispatch._exported(call, cuda, adapter)
    assert set(chip.streams) == {1234}
    assert chip.stream == 0, "CuPy's current stream is as it was"
    assert (y.dtype, mean.dtype) == (x.dtype, torch.float64)
    wide = x.double()
    expected = (wide - wide.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        wide.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    )
    torch.testing.assert_close(y, expected.to(x.dtype), rtol=1e-2 if x.element_size() == 2 else 1e-5, atol=1e-5)
    if order != "strided":
        assert y.stride() == x.stride()


def test_stats_are_the_same_for_a_view_of_the_same_bits(chip):
    """uint16 stands for bfloat16 where the libraries share no such type."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    p = small()
    x = p.case.x.astype(ml_dtypes.bfloat16)
    of = problem(fake_cupy.asarray(x), 1, 1e-5)
    one, other = (cuda.run(new_call(of, STATS | NORMALISE, fake_cupy.asarray(a))) for a in (x, x.view(np.uint16)))
    assert same_bits(one[0].get().view(np.uint16), other[0].get())
    assert same_bits(one[1].get(), other[1].get())


def test_cast_rounds_once(chip):
    """Doubles between two values of a 16-bit type, a little off the middle: by way of float32 they would be ties."""
    values = np.array([1 + 2.0**-11 + 2.0**-40, -1 - 2.0**-11 - 2.0**-40, 1 + 2.0**-11 - 2.0**-40, 1e300, -0.0, np.nan])
    got = cuda.cast(fake_cupy.asarray(values), np.float16)
    with np.errstate(all="ignore"):
        assert same_bits(got.get()[:5], values.astype(np.float16)[:5])
    assert np.isnan(got.get()[5])
    values = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8 - 2.0**-40, 1 + 3 * 2.0**-8 - 2.0**-40, -np.inf])
    bits = cuda.cast(fake_cupy.asarray(values), np.uint16).get()
    assert [hex(b) for b in bits] == ["0x3f81", "0x3f80", "0x3f81", "0xff80"]
    assert same_bits(cuda.cast(fake_cupy.asarray(values), np.float32).get(), values.astype(np.float32))


def test_floats_below_the_normal_ones_are_zero(chip):
    """As CuPy compiles, so the emulation shows it: -ftz=true. float64 has all of its values."""
    x = fake_cupy.asarray(np.array([[-1.0], [1.0]], np.float32))
    mean, var = (fake_cupy.asarray(np.array([v])) for v in (0.0, 1.0))
    tiny = fake_cupy.asarray(np.array([1e-39]))
    assert (bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, weight=tiny).get() == 0).all()
    x = fake_cupy.asarray(x.get().astype(float))
    wide = bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, weight=tiny).get()
    np.testing.assert_allclose(np.abs(wide), 1e-39, rtol=1e-4)
    assert cuda.cast(tiny, np.float32).get() == 0
    constant = fake_cupy.asarray(np.full((5, 1), 1e-39, np.float32))
    assert (bnkern.batch_norm_train(constant, bias=fake_cupy.asarray(np.array([0.5])))[0].get() == 0.5).all()


def test_the_extras_bring_a_compiler():
    """The wheels of CuPy have no NVRTC of their own; their extra `ctk` has."""
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    cuda_extras = {n: e for n, e in extras["optional-dependencies"].items() if n.startswith("cuda")}
    assert {requirement for extra in cuda_extras.values() for requirement in extra if "cupy" in requirement} == {
        "cupy-cuda12x[ctk]>=14",
        "cupy-cuda13x[ctk]>=14",
    }


@pytest.mark.parametrize(("op", "moved", "least"), [
    ("train", 3, 2), ("inference", 2, 2), ("backward", 5, 3), ("frozen", 2, 2), ("stats", 1, 1)])  # fmt: skip
def test_explain_knows_every_operation(chip, op, moved, least):
    """Arrays moved where nothing is kept on chip between the sweeps, and where all is."""
    x = small().x
    told = bnkern.explain(x, op=op)
    assert (told.engine, told.how) == ("cuda", "GPU kernels")
    assert (told.bytes_moved, told.bytes_least) == (moved * x.nbytes, least * x.nbytes)

"""PyTorch tensors: their own memory in and out, their rules about graphs and writes kept."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import Backend, of_framework
from helpers.support import linux_only

import bnkern
from bnkern import _dispatch, _vectors
from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS, new_call
from bnkern.arrays import torch as adapter
from bnkern.checks.problem import problem
from bnkern.engines import array_api

torch = of_framework("torch")


@pytest.fixture
def case():
    return cases.make((4, 5, 6, 3), 1)


def tensors(case):
    return [torch.from_numpy(a.copy()) for a in (case.x, case.weight, case.bias, case.dy)]


# ---------------------------------------------------------------- memory


@linux_only
def test_nothing_is_copied():
    """64 MB tensors are read and written where they lie: the process's peak memory says so."""
    import resource

    x = torch.ones(64, 256, 32, 32)  # 64 MB
    out = torch.ones_like(x)
    bnkern.batch_norm_train(x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bnkern.batch_norm_train(x, out=out)
    bnkern.batch_norm_train(x.permute(0, 2, 3, 1), axis=-1, out=out.permute(0, 2, 3, 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def test_bfloat16_is_lent_as_its_bits():
    """No package is needed for it: the tensor's memory as uint16, in whatever strides, and back."""
    t = torch.randn(4, 6, 5).to(torch.bfloat16)[:, ::2].transpose(0, 2)
    lent = adapter.export(t)
    assert lent.dtype == np.uint16
    assert lent.ctypes.data == t.data_ptr()
    assert lent.strides == tuple(2 * s for s in t.stride())
    back = adapter.wrap(lent, t)
    assert back.dtype is torch.bfloat16
    assert back.data_ptr() == t.data_ptr()
    assert torch.equal(back, t)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_are_rounded_once(dtype):
    """float64 to 16 bits: through float32, as PyTorch goes, what lies just above a tie would be rounded down."""
    tie = {"float16": 1 + 2**-11, "bfloat16": 1 + 2**-8}[dtype]
    sums, dtype = torch.tensor([tie * (1 + 2**-40), tie], dtype=torch.float64), getattr(torch, dtype)
    got = _vectors.cast(sums, dtype)
    assert got.dtype is dtype
    assert got.tolist() == [2 * tie - 1, 1.0]
    assert sums.to(dtype).tolist() != got.tolist()  # else there was nothing to take care of


@pytest.mark.parametrize("gradient", ["contiguous", "channels last"])
@pytest.mark.parametrize("memory", ["contiguous", "channels last", "permuted"])
def test_results_are_in_the_memory_format_of_x(case, memory, gradient):
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    x, w, b, dy = tensors(case)
    dy = dy.contiguous(memory_format=formats[gradient])
    x = x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) if memory == "permuted" else x
    x = x.contiguous(memory_format=formats[memory]) if memory in formats else x
    y, stats = bnkern.batch_norm_train(x, weight=w, bias=b, residual=dy, activation="relu")
    how = {"activation": "relu", "needs": ("x", "residual")}
    grads = bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, y=y, **how)
    assert y.stride() == grads.dx.stride() == grads.dresidual.stride() == x.stride()
    p = problem(x, 1, 1e-5, "relu")
    call = new_call(p, 0, x).replaced(dy=dy, mean=stats.mean, var=stats.var, weight=w, bias=b, y=y)
    call.wants(frozenset(how["needs"]), frozen=False)
    assert call.passes == REDUCE | INPUT_GRAD
    dx, *_, dresidual = array_api.run(call)
    assert dx.stride() == dresidual.stride() == x.stride()
    by_standard = array_api.run(new_call(p, STATS | NORMALISE, x).replaced(weight=w, bias=b, residual=dy))
    assert by_standard[0].stride() == x.stride()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("axis", [1, -1])
def test_same_bits_as_numpy(axis, threads):
    """Large enough for several threads, odd sizes: every result of training and backward."""
    case = cases.make((5, 71, 33, 29), axis)
    want = cases.essentials(case)
    x, w, b, dy = tensors(case)
    with bnkern.threads(threads):
        residual = torch.from_numpy(case.residual)
        y, stats = bnkern.batch_norm_train(x, weight=w, bias=b, axis=axis, activation="relu", residual=residual)
        how = {"axis": axis, "activation": "relu", "y": y, "needs": ("x", "weight", "bias", "residual")}
        grads = bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, **how)
    got = {"y": y, "mean": stats.mean, "var": stats.var, **grads._asdict()}
    assert [name for name in want if not same_bits(got[name].numpy(), want[name])] == []


# ---------------------------------------------------------------- what is written


def test_writes_are_counted(case):
    """A graph that saved what is overwritten notices, as with any other in-place operation."""
    x, w, b, _ = tensors(case)
    out, mean, var = torch.empty_like(x), torch.zeros(5), torch.ones(5)
    versions = [t._version for t in (x, w, b, out, mean, var)]
    bnkern.batch_norm_train(x, weight=w, bias=b, running_mean=mean, running_var=var, out=out)
    assert [t._version for t in (x, w, b, out, mean, var)] == [v + (i > 2) for i, v in enumerate(versions)]

    saved = torch.ones(4, 5, 6, 3)
    loss = (torch.ones(4, 5, 6, 3, requires_grad=True) * saved).sum()
    bnkern.batch_norm_train(x, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_buffers_stay_out_of_the_graph(case):
    """Under no_grad an x that requires grad is a value like others, and the module's buffers stay buffers."""
    x, *_ = tensors(case)
    layer = torch.nn.BatchNorm2d(5)
    x.requires_grad_()
    with torch.no_grad():
        y, stats = bnkern.batch_norm_train(
            x, weight=layer.weight, bias=layer.bias, running_mean=layer.running_mean, running_var=layer.running_var
        )
    twin = torch.nn.BatchNorm2d(5)
    expected = twin(x).detach()
    assert not any(t.requires_grad for t in (y, *stats[:2], layer.running_mean, layer.running_var))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(layer.running_mean, twin.running_mean)
    torch.testing.assert_close(layer.running_var, twin.running_var)


def test_a_parameter_is_written_only_without_gradients(case):
    x, *_ = tensors(case)
    mean, var = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(5))
    with pytest.raises(TypeError, match=r"running_mean: .*require grad"):
        bnkern.batch_norm_train(x, running_mean=mean, running_var=var)
    assert not mean.any()
    with torch.no_grad():
        _, stats = bnkern.batch_norm_train(x, running_mean=mean, running_var=var)
    torch.testing.assert_close(mean.detach(), (0.1 * stats.mean).float())
    assert mean.is_leaf
    assert mean.requires_grad


@pytest.mark.parametrize("name", ["running_mean", "running_var", "out"])
def test_an_expanded_tensor_is_refused_before_anything_is_written(case, name):
    x, *_ = tensors(case)
    given = {"running_mean": torch.zeros(5), "running_var": torch.ones(5), "out": torch.full_like(x, 7)}
    given[name] = torch.ones(1).expand(given[name].shape)
    before = {key: t.clone() for key, t in given.items()}
    with pytest.raises(ValueError, match=f"{name}: expected one place in memory per element, got strides"):
        bnkern.batch_norm_train(x, **given)
    assert all(torch.equal(given[key], t) for key, t in before.items())


def test_overlap_is_seen_in_memory(case):
    """Other tensor objects on the same memory: refused where they overlap in part, right where exactly."""
    memory = torch.arange(1000.0).reshape(10, 5, 20)
    x, shifted = memory[:8], memory[1:9]
    before = memory.clone()
    with pytest.raises(ValueError, match="out: expected x itself or memory apart from it"):
        bnkern.batch_norm_train(x, out=shifted)
    with pytest.raises(ValueError, match=r"out: .*shared with weight"):
        bnkern.batch_norm_train(x.clone(), weight=memory[0, :, 0], out=memory[:8])
    both = torch.ones(5)
    with pytest.raises(ValueError, match=r"running_var: .*shared with running_mean"):
        bnkern.batch_norm_train(x, running_mean=both[:], running_var=both[:])
    with pytest.raises(ValueError, match=r"running_mean: .*shared with x"):
        bnkern.batch_norm_train(x, running_mean=memory[0, :, 0], running_var=both)
    how = {"stats": bnkern.batch_stats(x), "needs": ("x", "residual"), "out": x[:]}
    with pytest.raises(ValueError, match=r"out: .*apart from dy"):
        bnkern.batch_norm_backward(x, shifted.clone(), **how)
    assert torch.equal(memory, before)

    want, _ = bnkern.batch_norm_train(x)
    y, _ = bnkern.batch_norm_train(x, out=memory[:8])
    assert y.data_ptr() == x.data_ptr()
    assert torch.equal(y, want)
    assert torch.equal(memory[8:], before[8:])


def test_inference_tensors(case):
    with torch.inference_mode():
        x, mean, var = torch.from_numpy(case.x).clone(), torch.zeros(5), torch.ones(5)
        y, _ = bnkern.batch_norm_train(x, running_mean=mean, running_var=var, out=torch.empty_like(x))
    assert mean.all()
    assert y.is_inference()
    assert same_bits(bnkern.batch_norm_train(x)[0].numpy(), bnkern.batch_norm_train(case.x)[0])  # to read is no harm
    before = mean.clone()
    with pytest.raises(ValueError, match=r"running_mean: .*inference tensor.*update_running"):
        bnkern.batch_norm_train(x, running_mean=mean, running_var=var)
    assert torch.equal(mean, before)


def test_statistics_where_a_device_has_no_float64():
    """Apple's GPUs: what decides is the device, which PyTorch's own table does not look at."""

    class OnMps:
        device = torch.device("mps")

    assert adapter.TORCH.widest(torch.ones(1)) is torch.float64
    assert adapter.TORCH.widest(OnMps()) is torch.float32


# ---------------------------------------------------------------- layers against PyTorch's own


@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_pytorch(case, training):
    x, w, b, dy = tensors(case)
    x.requires_grad_()
    mean, var = torch.linspace(-1, 1, 5), torch.linspace(0.5, 2, 5)
    expected = torch.nn.functional.batch_norm(x, mean.clone(), var.clone(), w, b, training)
    (dx,) = torch.autograd.grad(expected, x, dy)
    x = x.detach()
    stats = bnkern.batch_stats(x) if training else bnkern.BatchStats(mean, var, None)
    y = bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var, weight=w, bias=b)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, frozen=not training).dx, dx)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_flushing_subnormals_changes_no_bit(dtype):
    """The mode is the calling thread's; the kernels work in their own on every thread."""
    scale = {"float32": 1e-40, "float16": 1e-6}[dtype]
    case = cases.make((3, 5, 6000), 1)
    x, dy = ((a * scale).astype(dtype) for a in (case.x, case.dy))

    def results():
        y, stats = bnkern.batch_norm_train(x, eps=1e-30)
        with bnkern.threads(1):
            dx = bnkern.batch_norm_backward(dy, x, stats, eps=1e-30).dx
        return y, *stats[:2], dx

    want = results()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        got = results()
    finally:
        torch.set_flush_denormal(False)
    assert np.any(want[1])
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


def test_cuda_tensors_are_told_what_is_missing(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(4, 5, device="cuda")
    monkeypatch.setitem(bnkern.arrays._by_type, type(x), adapter.TORCH)
    route = _dispatch._find(x)
    assert route.name == "cuda" or "CuPy is not installed" in route.refused[0]


def test_explain_tells_of_the_kernels(case):
    told = bnkern.explain(Backend.TORCH_CHANNELS_LAST.make(case.x))
    assert told.engine == "cpu"
    assert told.how == "CPU kernels; memory of PyTorch read and written in place, no copy"
    assert told.layout == "channels last"
    assert told.refused == ()

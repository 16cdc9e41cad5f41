"""PyTorch's own samples for batch_norm (torch.testing, OpInfo): forward, running statistics and gradients."""

import pytest
from helpers.libraries import of_framework

import bnkern
from bnkern._dtypes import DTYPES

torch = of_framework("torch")
pytest.importorskip("expecttest", reason="expecttest is not installed, which torch.testing needs")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def samples(name, dtype, requires_grad=False):
    op = next(op for op in op_db if op.name == name)
    return list(op.sample_inputs("cpu", getattr(torch, dtype), requires_grad=requires_grad))


def copies(tensors):
    return [t if t is None else t.detach().clone() for t in tensors]


def wide(tensors):
    """Leaves for PyTorch to compute with: 16-bit values as float32, for it rounds on the way and bnkern once."""
    up = [t if t is None or t.itemsize > 2 else t.float() for t in copies(tensors)]
    return [t if t is None else t.requires_grad_(old.requires_grad) for t, old in zip(up, tensors, strict=True)]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, [e.detach().to(a.dtype) for a, e in zip(actual, expected, strict=True)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_functional_batch_norm(dtype):
    """Every sample of torch.nn.functional.batch_norm with all of its gradients."""
    tried = 0
    for sample in samples("nn.functional.batch_norm", dtype, requires_grad=True):
        given, training = (sample.input, *sample.args), sample.kwargs.get("training", False)
        eps, momentum = sample.kwargs.get("eps", 1e-5), sample.kwargs.get("momentum", 0.1)
        x, mean, var, weight, bias = copies(given)
        if x.ndim < 2:
            with pytest.raises(ValueError, match="x: expected at least 2 dimensions"):
                bnkern.batch_stats(x)
            continue
        tried += 1
        if training:
            y, stats = bnkern.batch_norm_train(
                x, weight=weight, bias=bias, running_mean=mean, running_var=var, momentum=momentum, eps=eps
            )
        else:
            y, stats = (
                bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, weight=weight, bias=bias, eps=eps),
                (mean, var, None),
            )
        dy = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
        needs = [name for name, t in (("x", x), ("weight", weight), ("bias", bias)) if t is not None]
        grads = bnkern.batch_norm_backward(
            dy, x, stats, weight=weight, bias=bias, frozen=not training, eps=eps, needs=needs
        )

        x, *running, weight, bias = wide(given)
        expected = torch.nn.functional.batch_norm(x, *running, weight, bias, training, momentum, eps)
        wanted = [t for t in (x, weight, bias) if t is not None]
        assert_close([y], [expected])
        assert_close([g for g in grads if g is not None], torch.autograd.grad(expected, wanted, dy.to(x.dtype)))
        if running[0] is not None:
            assert_close([mean, var], running)
    assert tried >= 10


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_batch_norm(dtype):
    """Every sample of torch.native_batch_norm in training, for what it saves: mean and 1 / sqrt(var + eps)."""
    tried = 0
    for sample in samples("native_batch_norm", dtype):
        *tensors, training, momentum, eps = sample.input, *sample.args
        if not training:
            continue
        tried += 1
        x, weight, bias, mean, var = copies(tensors)
        y, stats = bnkern.batch_norm_train(
            x, weight=weight, bias=bias, running_mean=mean, running_var=var, momentum=momentum, eps=eps
        )
        expected, *saved = torch.native_batch_norm(*wide(tensors), training, momentum, eps)
        assert_close([y], [expected])
        torch.testing.assert_close([stats.mean, torch.rsqrt(stats.var + eps)], saved, check_dtype=False)
    assert tried >= 5

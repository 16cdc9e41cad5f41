"""PyTorch's own samples for batch_norm (torch.testing, OpInfo): forward, running statistics and gradients."""

import pytest
from backends import of_framework

import bnkern
from bnkern._args import READY

torch = of_framework("torch")
pytest.importorskip("expecttest", reason="expecttest is not installed, which torch.testing needs")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def samples(name, dtype, requires_grad=False):
    op = next(op for op in op_db if op.name == name)
    return list(op.sample_inputs("cpu", getattr(torch, dtype), requires_grad=requires_grad))


def copies(tensors):
    return [t if t is None else t.detach().clone() for t in tensors]


@pytest.mark.parametrize("dtype", READY)
def test_functional_batch_norm(dtype):
    """Every sample of torch.nn.functional.batch_norm with all of its gradients."""
    tried = 0
    for sample in samples("nn.functional.batch_norm", dtype, requires_grad=True):
        x, (mean, var, weight, bias) = sample.input, sample.args
        training = sample.kwargs.get("training", False)
        eps, momentum = sample.kwargs.get("eps", 1e-5), sample.kwargs.get("momentum", 0.1)
        if x.ndim < 2:
            with pytest.raises(ValueError, match="x: expected at least 2 dimensions"):
                bnkern.batch_stats(x.detach())
            continue
        tried += 1
        running = copies((mean, var))
        expected = torch.nn.functional.batch_norm(x, *running, weight, bias, training, momentum, eps)
        dy = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
        wanted = {name: t for name, t in (("x", x), ("weight", weight), ("bias", bias)) if t is not None}
        gradients = dict(zip(wanted, torch.autograd.grad(expected, wanted.values(), dy), strict=True))

        mine, (x, weight, bias) = copies((mean, var)), copies((x, weight, bias))
        if training:
            y, stats = bnkern.batch_norm_train(x, weight, bias, *mine, momentum=momentum, eps=eps)
        else:
            stats = (*mine, None)
            y = bnkern.batch_norm_inference(x, *mine, weight, bias, eps=eps)
        torch.testing.assert_close(y, expected.detach())
        torch.testing.assert_close(mine, running)
        grads = bnkern.batch_norm_backward(dy, x, stats, weight, bias, frozen=not training, eps=eps, needs=wanted)
        for name, gradient in gradients.items():
            torch.testing.assert_close(getattr(grads, "dx" if name == "x" else f"d{name}"), gradient)
    assert tried >= 10


@pytest.mark.parametrize("dtype", READY)
def test_native_batch_norm(dtype):
    """Every sample of torch.native_batch_norm in training, for what it saves: mean and 1 / sqrt(var + eps)."""
    tried = 0
    for sample in samples("native_batch_norm", dtype):
        weight, bias, mean, var, training, momentum, eps = sample.args
        if not training:
            continue
        tried += 1
        running, mine = copies((mean, var)), copies((mean, var))
        expected, *saved = torch.native_batch_norm(sample.input, weight, bias, *running, training, momentum, eps)
        y, stats = bnkern.batch_norm_train(sample.input, weight, bias, *mine, momentum=momentum, eps=eps)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(mine, running)
        torch.testing.assert_close([stats.mean, torch.rsqrt(stats.var + eps)], saved, check_dtype=False)
    assert tried >= 5

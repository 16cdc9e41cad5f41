"""Plain eager calls go around the operators: the same bits, and whoever looks at operators still sees them."""

import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import bnkern.torch  # noqa: E402
from bnkern.torch import eager  # noqa: E402


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **kwargs or {})


def results(dtype, watched, monkeypatch):
    torch.manual_seed(0)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    layer = bnkern.torch.BatchNorm2d(5, activation="relu").to(wide)
    x = torch.randn(4, 5, 6, 7).to(dtype).requires_grad_()
    shortcut = torch.randn(4, 5, 6, 7).to(dtype).requires_grad_()
    with monkeypatch.context() as patch:
        if watched:
            patch.setattr(eager, "unwatched", lambda arguments: False)
        y = layer(x, shortcut)
        grads = torch.autograd.grad(y.square().sum(), (x, shortcut, *layer.parameters()), create_graph=True)
        second = torch.autograd.grad(grads[0].square().sum(), x)
        version = layer.running_mean._version, layer.running_var._version
        layer.eval()
        frozen = layer(x, shortcut)
    return [y, *grads, *second, frozen, *layer.buffers()], version


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_same_bits_as_by_the_operators(dtype, monkeypatch):
    (ours, version), (theirs, _) = results(dtype, False, monkeypatch), results(dtype, True, monkeypatch)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert torch.equal(a, b)
    assert all(version), "autograd counts the writes"


def test_a_mode_sees_the_operators():
    layer, x = bnkern.torch.BatchNorm2d(5), torch.randn(4, 5, 6, 7, requires_grad=True)
    with Seen() as seen:
        layer(x).sum().backward()
    for name in ("batch_norm_train", "update_running", "batch_norm_backward"):
        assert f"bnkern::{name}" in seen.names


def test_a_profiler_sees_their_names():
    layer, x = bnkern.torch.BatchNorm2d(5), torch.randn(4, 5, 6, 7, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x).sum().backward()
    found = {event.key for event in profile.key_averages()}
    assert {"bnkern::batch_norm_train", "bnkern::update_running", "bnkern::batch_norm_backward"} <= found

"""Ten training steps of real networks with PyTorch's layers and with bnkern's: the same losses, to a derived bound.

Training magnifies rounding errors, each network by a factor of its own, and PyTorch's own runs show it. In float32 it
is the difference of its float32 run from its float64 run, where the largest errors are as large as the losses and grow
no more. In float64, where they do grow, it is what a nudge of x by 2^-40 does, scaled down to float64's unit. A run by
bnkern may differ by FACTOR times as much: such a difference is a single draw of a random variable, and roundings happen
in every layer, the nudge once.
"""

import copy

import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

from helpers import torch_models  # noqa: E402

import bnkern.torch as bt  # noqa: E402

MODELS = torch_models.small()
STEPS = 10
FACTOR = 64
NUDGE = 2.0**-40


def losses(model, x, target, dtype, layout):
    model, x = model.to(dtype), x.to(dtype)
    if layout == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    told = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    return torch.tensor(told, dtype=torch.float64)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", MODELS)
def test_ten_steps(name, layout):
    torch.manual_seed(0)
    kind, shape = MODELS[name]
    model, x, target = kind(), torch.randn(shape), torch.arange(shape[0]) % 10
    double, single = torch.float64, torch.float32
    exact = losses(copy.deepcopy(model), x, target, double, layout)
    theirs = losses(copy.deepcopy(model), x, target, single, layout)
    nudged = losses(copy.deepcopy(model), x.double() + NUDGE * torch.randn(shape, dtype=double), target, double, layout)
    scale = torch.finfo(double).eps / NUDGE
    bounds = {
        single: FACTOR * (theirs - exact).abs().cummax(0).values.clamp(min=torch.finfo(single).eps * exact[0].item()),
        double: FACTOR * scale * (nudged - exact).abs().cummax(0).values.clamp(min=NUDGE * exact[0].item()),
    }
    for fuse, dtype in ((False, double), (False, single), (True, single)):
        got = losses(bt.convert(copy.deepcopy(model), fuse=fuse), x, target, dtype, layout)
        assert ((got - exact).abs() <= bounds[dtype]).all(), (fuse, dtype, got - exact, bounds[dtype])
    assert exact[-1] < exact[0]  # something was learned

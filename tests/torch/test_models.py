"""Ten training steps of real networks with PyTorch's layers and with bnkern's: the same losses, to a derived bound.

Training magnifies rounding errors, each network by a factor of its own. PyTorch's float32 run against its float64 run
shows it: amplification = (largest difference of losses so far) / (float32's unit). bnkern's run in a dtype may then
differ from the float64 run by what the same amplification makes of that dtype's unit; a factor of 16 covers that such a
difference is a single draw of a random variable.
"""

import copy

import pytest
from helpers import torch_models
from helpers.libraries import of_framework

torch = of_framework("torch")

import bnkern.torch as bt  # noqa: E402

MODELS = torch_models.small()
STEPS = 10


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
    unit = {t: torch.finfo(t).eps for t in (single, double)}
    amplification = ((theirs - exact).abs() / unit[single]).cummax(0).values.clamp(min=exact[0].item())
    for fuse in (False, True):
        for dtype in (double, single):
            got = losses(bt.convert(copy.deepcopy(model), fuse=fuse), x, target, dtype, layout)
            bound = 16 * amplification * unit[dtype]
            assert ((got - exact).abs() <= bound).all(), (fuse, dtype, got - exact, bound)
    assert exact[-1] < exact[0]  # something was learned

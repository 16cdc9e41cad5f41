"""One line for a model: convert, fuse, fold, and the way back, on networks of real shapes and on the traps."""

import copy

import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

from helpers import torch_models  # noqa: E402

import bnkern.torch as bt  # noqa: E402
from bnkern.torch.modules import FusedForward  # noqa: E402

nn, F = torch.nn, torch.nn.functional
MODELS = torch_models.small()
FUSED = {"resnet50": (49, 4), "densenet": (9, 0), "mobilenet": (7, 0), "unet": (10, 1), "mlp": (2, 0)}
FOLDED = {"resnet50": (53, 0), "densenet": (4, 5), "mobilenet": (7, 0), "unet": (11, 0), "mlp": (2, 0)}


def make(name):
    torch.manual_seed(0)
    kind, shape = MODELS[name]
    return kind(), torch.randn(shape)


def ours(model):
    return [m for m in model.modules() if isinstance(m, FusedForward)]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name):
    model, x = make(name)
    layers = list(model.modules())
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert bt.convert(model) is model
    assert ours(model)
    assert list(model.modules()) == layers  # the same objects: whoever holds one, holds it still
    assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())
    assert list(model.state_dict()) == list(before.state_dict())
    close(model(x), before(x))
    before.load_state_dict(model.state_dict())
    assert bt.restore(model) is model
    assert not ours(model)
    assert torch.equal(model(x), before(x))


@pytest.mark.parametrize("name", MODELS)
def test_fuse_and_back(name):
    model, x = make(name)
    plain = bt.convert(copy.deepcopy(model))
    fused = bt.convert(model, fuse=True)
    report = bt.fusion_report(fused)
    assert (len(report.fused), len(report.left)) == FUSED[name], str(report)
    assert list(fused.state_dict()) == list(plain.state_dict())
    for mode in (True, False):
        plain.train(mode)
        fused.train(mode)
        a, b = plain(x), fused(x)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for p, q in zip(
            torch.autograd.grad(a.square().sum(), list(plain.parameters())),
            torch.autograd.grad(b.square().sum(), list(fused.parameters())), strict=True,
        ):  # fmt: skip
            close(p, q)
    close(plain.state_dict(), fused.state_dict())
    again = copy.deepcopy(fused)
    assert torch.equal(again(x), fused(x))
    back = bt.restore(fused)
    assert not ours(back)
    close(back(x), plain(x))
    assert list(back.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_the_model_that_was_fused_stays_right(name):
    model, x = make(name)
    twin = bt.convert(copy.deepcopy(model))
    fused = bt.convert(model, fuse=True)
    assert fused is not model
    assert torch.equal(model(x), twin(x))


@pytest.mark.parametrize("source", ["torch", "bnkern", "fused"])
@pytest.mark.parametrize("name", MODELS)
def test_fold(name, source):
    model, x = make(name)
    for _ in range(3):
        model(x + torch.randn(()))
    for bn in model.modules():
        if isinstance(bn, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(bn.weight)
            nn.init.normal_(bn.bias)
    model.eval()
    want = model(x)
    given = model if source == "torch" else bt.convert(copy.deepcopy(model), fuse=source == "fused")
    folded = bt.fold(given)
    report = bt.fusion_report(folded)
    assert (len(report.fused), len(report.left)) == FOLDED[name], str(report)
    left = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert left == FOLDED[name][1]
    assert not folded.training
    scale = want.abs().max()
    torch.testing.assert_close(folded(x) / scale, want / scale, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_fold_every_convolution(convolution, groups, transposed, bias):
    rank = int(convolution.__name__[4])
    kind = getattr(nn, f"ConvTranspose{rank}d") if transposed else convolution
    model = nn.Sequential(kind(4, 6, 3, groups=groups, bias=bias), getattr(nn, f"BatchNorm{rank}d")(6)).double()
    x = torch.randn(2, 4, *[5] * rank, dtype=torch.float64)
    model(x)
    model.eval()
    torch.testing.assert_close(bt.fold(model)(x), model(x))


def test_a_folded_linear_layer_keeps_its_rank():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    folded = bt.fold(model)
    torch.testing.assert_close(folded(torch.ones(2, 3)), model(torch.ones(2, 3)))
    with pytest.raises(AssertionError, match="expected 2D input"):
        folded(torch.ones(2, 4, 3))  # there BatchNorm's channels are the axis of length 4


# ---------------------------------------------------------------- what stays


class Traps(nn.Module):
    """One layer for each reason to leave it."""

    def __init__(self):
        super().__init__()
        self.twice, self.sigmoid, self.written = (nn.BatchNorm2d(3) for _ in range(3))
        self.kept, self.slope, self.hooked, self.number = (nn.BatchNorm2d(3) for _ in range(4))
        self.hooked.register_forward_hook(lambda module, args, out: None)

    def forward(self, x):
        a = self.twice(x)
        a = torch.relu(a) + a
        a = torch.sigmoid(self.sigmoid(a))
        b = self.written(a)
        a.mul_(2)
        a = torch.relu(b + a)
        other = a * 1
        seen = other
        other += self.kept(a)
        a = torch.relu(other) + seen
        a = F.leaky_relu(self.slope(a), -0.1)
        a = torch.relu(self.hooked(a))
        return torch.relu(self.number(a) + 1)


def test_what_is_not_safe_stays():
    model = Traps()
    x = torch.randn(4, 3, 5, 5)
    want = copy.deepcopy(model)(x)
    fused = bt.convert(model, fuse=True)
    report = bt.fusion_report(fused)
    reasons = dict(report.left)
    assert report.fused == []
    for name, words in {
        "twice": "used 2 times", "sigmoid": "but sigmoid", "written": "mul_ may write in place",
        "kept": "in place to a tensor that others may read", "slope": "but leaky_relu", "hooked": "hooks",
        "number": "no tensor",
    }.items():  # fmt: skip
        assert words in reasons[name], str(report)
    close(fused(x), want)


def untraceable(change):
    class Last(nn.Module):
        if change == "values":

            def forward(self, x):
                return x if x.sum() > 0 else -x
        elif change == "training":

            def forward(self, x):
                return x if self.training else x + 1
        else:

            def forward(self, x):
                return x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Tanh(), Last())
    if change == "hooks":
        model[5].register_forward_hook(lambda module, args, out: out + 1)
    return model


@pytest.mark.parametrize(
    ("change", "reason"), [("values", "decides on a value"), ("training", "self.training"), ("hooks", "hooks (5)")]
)
def test_what_cannot_be_traced_is_searched_for_neighbours(change, reason):
    model = untraceable(change)
    twin = copy.deepcopy(model)
    x = torch.randn(3, 3, 4, 4)
    fused = bt.convert(model, fuse=True)
    report = bt.fusion_report(fused)
    assert fused is model
    assert reason in dict(report.left)[""]
    assert report.fused == [("1", "relu")]
    assert "not traced" in dict(report.left)["3"]
    close(fused(x), twin(x))
    assert list(fused.state_dict()) == list(twin.state_dict())
    folded = bt.fold(fused)
    assert bt.fusion_report(folded).fused == [("1", "into 0")]
    twin.load_state_dict(fused.state_dict())
    close(folded(x), twin.eval()(x))
    again = bt.fusion_report(bt.convert(fused, fuse=True))
    assert (again.fused, len(again.left)) == ([("1", "relu")], 2)
    assert type(bt.restore(fused)[2]) is nn.ReLU
    assert torch.equal(fused.eval()(x), twin(x))


def test_modes_frozen_parameters_and_subclasses_stay():
    class Mine(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), Mine(3), nn.BatchNorm2d(3, affine=False)).eval()
    model[0].weight.requires_grad_(False)
    model[2].train()
    bt.convert(model, fuse=True)
    assert [m.training for m in model] == [False, False, True]
    assert type(model[1]) is Mine
    assert not model[0].weight.requires_grad


def test_an_activation_by_hand_has_no_way_back():
    model = nn.Sequential(bt.BatchNorm2d(3), bt.BatchNorm2d(3, activation="relu"))
    with pytest.raises(ValueError, match=r"activation of their own, got 1 with one"):
        bt.restore(model)
    assert type(model[0]) is bt.BatchNorm2d


def test_other_messages():
    for function in (bt.convert, bt.restore, bt.convert_sync, bt.fold):
        with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got int"):
            function(1)
    with pytest.raises(ValueError, match=r"module: expected what convert"):
        bt.fusion_report(nn.ReLU())
    model = nn.Sequential(nn.BatchNorm2d(3), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match="lazy one"):
        bt.convert_sync(model)
    assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.LazyBatchNorm1d]


def test_a_fused_model_compiles():
    model, x = make("mobilenet")
    fused = bt.convert(model, fuse=True)
    twin = copy.deepcopy(fused)
    got = torch.compile(fused, fullgraph=True, backend="aot_eager")(x)
    close(got, twin(x))

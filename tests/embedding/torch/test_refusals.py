"""What `fuse` and `fold` must leave alone: a graph, or a neighbour in a Sequential, would not be the model."""

import copy
import pickle
import random

import numpy
import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import bnkern.torch as bt  # noqa: E402

nn, F = torch.nn, torch.nn.functional


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.register_buffer("count", torch.zeros(()))
        self.steps, self.seen, self.constant = 0, [], torch.ones(4, 1, 1)
        self.generator, self.numpy_generator = random.Random(0), numpy.random.default_rng(0)
        with torch.no_grad():
            for layer in (self.bn, self.body[1]):
                for t in (layer.weight, layer.bias, layer.running_mean):
                    t.normal_()

    def simple(self, x):
        return torch.relu(self.bn(self.conv(x)))


def made(forward, name="forward", **more):
    torch.manual_seed(0)
    return type("Model", (Block,), {name: forward, **more})(), torch.randn(3, 4, 5, 5)


def report_of(change, x, model):
    """Applies fuse or fold; the result must do what the model does."""
    twin = copy.deepcopy(model)
    result = change(model)
    for training in (True, False) if change is fuse else (False,):
        twin.train(training)
        result.train(training)
        torch.manual_seed(1)
        random.seed(1)
        want = twin(x.clone())
        torch.manual_seed(1)
        random.seed(1)
        got = result(x.clone())
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        assert got.requires_grad == want.requires_grad
    if change is fuse:
        torch.testing.assert_close(dict(result.state_dict()), dict(twin.state_dict()), rtol=1e-4, atol=1e-4)
    return bt.fusion_report(result)


def fuse(model):
    return bt.convert(model, fuse=True)


# ---------------------------------------------------------------- what torch.fx does not record


def no_grad(self, x):
    with torch.no_grad():
        return self.simple(x)


def inference(self, x):
    with torch.inference_mode():
        x = x * 2
    return self.simple(x.clone())


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.simple(x)


def autocast_elsewhere(self, x):
    with torch.autocast("cuda", enabled=False):
        return self.simple(x)


def own_checkpoint(self, x):
    return checkpoint(self.simple, x, use_reentrant=False)


def drawn(self, x):
    return x if torch.rand(1).item() < 0.5 else self.simple(x)


def drawn_by_python(self, x):
    return self.simple(x) * random.random()


def drawn_by_its_own(self, x):
    return self.simple(x) * self.generator.random()


def drawn_by_numpy(self, x):
    return self.simple(x) * float(self.numpy_generator.random())


def grad_mode_asked(self, x):
    return self.simple(x) * (2 if torch.is_grad_enabled() else 3)


def autocast_asked(self, x):
    return self.simple(x) * (2 if torch.is_autocast_enabled("cpu") else 3)


def noise(self, x):
    return self.simple(x) + torch.randn(4, 1, 1)


def attribute(self, x):
    self.feature = self.conv(x)
    return self.simple(x)


def counter(self, x):
    self.steps += 1
    return self.simple(x) * self.steps


def appended(self, x):
    self.seen.append(x)
    return self.simple(x)


def buffer_replaced(self, x):
    self.count = self.count + 1
    return self.simple(x) * self.count


def buffer_behind_its_back(self, x):
    self._buffers["count"].add_(1)
    return self.simple(x) * self.count


def kind_asked(self, x):
    return self.simple(x * 2 if isinstance(x, torch.Tensor) else x)


def kind_asked_of_torch(self, x):
    return self.simple(x * 2 if torch.is_tensor(x) else x)


def attribute_asked(self, x):
    return self.simple(x.tensors if hasattr(x, "tensors") else x)


def swallowed(self, x):
    try:
        return self.simple(x) if x.sum() > 1e9 else self.simple(x) + 1
    except Exception:
        return self.simple(x)


def constant(self, x):
    return self.simple(x) * torch.tensor([2.0])


def plain_tensor(self, x):
    return self.simple(x) * self.constant


REFUSED = {
    no_grad: "grad mode", torch.no_grad()(Block.simple): "grad mode", inference: "grad mode", autocast: "autocast",
    autocast_elsewhere: "autocast", own_checkpoint: "checkpoint", drawn: "calls rand",
    drawn_by_its_own: "random numbers", drawn_by_numpy: "random numbers",
    grad_mode_asked: "for grad mode or autocast", autocast_asked: "for grad mode or autocast",
    drawn_by_python: "random numbers", noise: "calls randn",
    attribute: "sets attributes", counter: "sets attributes", appended: "sets attributes",
    buffer_replaced: "attributes", buffer_behind_its_back: "calls add_", kind_asked: "isinstance",
    kind_asked_of_torch: "isinstance", attribute_asked: "tensors", swallowed: "decides on a value",
    constant: "calls tensor", plain_tensor: "no parameter or buffer",
}  # fmt: skip


@pytest.mark.parametrize("change", [fuse, bt.fold])
@pytest.mark.parametrize("forward", REFUSED, ids=lambda f: f.__name__)
def test_what_a_graph_would_not_keep_is_refused_and_the_model_is_as_before(forward, change):
    model, x = made(forward)
    before, kept = {k: copy.copy(v) for k, v in vars(model).items()}, dict(model.state_dict())
    kept = {name: t.clone() for name, t in kept.items()}
    numbers = torch.get_rng_state(), random.getstate()
    change(model)
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert set(vars(model)) - {"_bnkern_report"} == set(before)
    assert (model.steps, model.seen) == (0, [])
    assert all(torch.equal(t, kept[name]) for name, t in model.state_dict().items())
    report = report_of(change, x, model)
    assert report.fused == []
    assert REFUSED[forward] in dict(report.left)[""], str(report)
    assert {"bn", "body.1"} <= set(dict(report.left))
    pickle.dumps(model.state_dict())


@pytest.mark.parametrize("change", [fuse, bt.fold])
@pytest.mark.parametrize("method", ["train", "eval", "state_dict"])
def test_methods_that_a_graph_would_not_have(method, change):
    def own(self, *args, **kwargs):
        return getattr(Block, method)(self, *args, **kwargs)

    model, x = made(Block.simple, **{method: own})
    assert f"a {method} of its own" in dict(report_of(change, x, model).left)[""]


def test_a_forward_of_its_own_on_the_object():
    model = made(Block.simple)[0]
    model.bn.forward = lambda input: input * 2
    report = bt.fusion_report(bt.fold(model))
    assert report.fused == []
    assert "hooks" in dict(report.left)["bn"]


# ---------------------------------------------------------------- traced, and layers that stay


def reads_weight(self, x):
    z = torch.relu(self.bn(self.conv(x)))
    return F.conv2d(z, self.conv.weight)


def reads_statistics(self, x):
    z = self.bn(self.conv(x))
    mean = self.bn.running_mean.clone()
    return torch.relu(z) + mean.view(1, -1, 1, 1)


def in_place_residual(self, x):
    x = self.conv(x)
    z = self.bn(x)
    return z + self.relu(x)


def called_twice(self, x):
    a = self.bn(x)
    b = torch.sigmoid(self.bn(self.conv(x) * 5 + 2))
    return torch.relu(a) + b


def wrapped_write(self, x):
    z = self.bn(x)
    F.relu(x, True)
    return torch.relu(z)


@pytest.mark.parametrize(
    ("forward", "change", "words"),
    [
        (reads_weight, bt.fold, "used elsewhere too"), (reads_statistics, bt.fold, "used elsewhere too"),
        (reads_statistics, fuse, "reads its parameters or statistics"), (in_place_residual, fuse, "in place"),
        (called_twice, fuse, "bn is called between"), (wrapped_write, fuse, "relu may write in place"),
    ],
)  # fmt: skip
def test_layers_that_stay_in_a_graph(forward, change, words):
    model, x = made(forward)
    with torch.no_grad():
        report = report_of(change, x, model)
    assert report.fused == []
    assert any(name == "bn" and words in reason for name, reason in report.left), str(report)


@pytest.mark.parametrize("traced", [True, False])
def test_tied_weights_are_not_folded(traced):
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    second.weight = first.weight
    model = nn.Sequential(first, nn.BatchNorm2d(4), second).eval()
    nn.init.normal_(model[1].weight)
    if not traced:
        model.register_forward_hook(lambda module, args, out: out)
    assert "used elsewhere too" in str(report_of(bt.fold, torch.randn(2, 4, 5, 5), model)) or not traced
    assert bt.fusion_report(bt.fold(model)).fused == []


def by_keyword(self, x):
    return torch.relu(self.bn(input=self.conv(x - self.count.view(1, 1, 1, 1))))


@pytest.mark.parametrize("change", [fuse, bt.fold])
def test_keywords_and_buffers_are_understood(change):
    model, x = made(by_keyword)
    assert dict(report_of(change, x, model).fused) == {"bn": "relu" if change is fuse else "into conv"}


def test_a_residual_by_keyword_is_not_lost():
    def forward(self, x):
        return self.bn(self.conv(x), activation="relu", residual=x)

    model, x = made(forward)
    bt.convert(model)
    assert bt.fusion_report(fuse(model)).left == [("bn", "its call has arguments of its own")]
    report = report_of(bt.fold, x, model)
    assert report.fused == [("bn", "into conv")]


# ---------------------------------------------------------------- Sequential, untraced


def looped(self, x, want=None):
    results = []
    for layer in self.body:
        x = layer(x)
        results.append(x)
    return torch.cat(results)


def sliced(self, x, want=None):
    return self.body[:2](x)


@pytest.mark.parametrize("change", [fuse, bt.fold])
@pytest.mark.parametrize("forward", [looped, sliced])
def test_a_sequential_that_may_be_taken_apart_stays(forward, change):
    model, x = made(forward)
    report = report_of(change, x, model)
    assert report.fused == []
    assert "called whole" in dict(report.left)["body.1"]


@pytest.mark.parametrize("change", [fuse, bt.fold])
def test_neighbours_are_counted_where_a_layer_comes_twice(change):
    sigmoid = nn.Sigmoid()
    layers = [sigmoid, nn.Conv2d(4, 4, 1), sigmoid, nn.BatchNorm2d(4), sigmoid, nn.ReLU()]
    model = nn.Sequential(*layers)
    model.register_forward_hook(lambda module, args, out: out)  # not traced, therefore
    with torch.no_grad():
        model[3].weight.fill_(-2)
    assert report_of(change, torch.randn(3, 4, 5, 5), model).fused == []


# ---------------------------------------------------------------- fold: the layer before


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_layers_are_named(norm):
    model = nn.Sequential(norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)).eval()
    assert "parametrised" in dict(bt.fusion_report(bt.fold(model)).left)["1"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_is_named():
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4))
    with pytest.raises(
        ValueError, match=r"got 0 whose weight was computed with a gradient; under .*remove_weight_norm"
    ):
        bt.fold(model)
    with torch.no_grad():
        model(torch.randn(2, 4, 5, 5))
    assert "parametrised" in dict(bt.fusion_report(bt.fold(model)).left)["1"]
    nn.utils.remove_weight_norm(model[0])
    assert bt.fusion_report(bt.fold(model)).fused == [("1", "into 0")]


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_folded_conv1d_refuses_input_without_a_batch(kind):
    model = nn.Sequential(kind(4, 6, 1), nn.BatchNorm1d(6)).eval()
    model[1].running_mean.normal_()
    folded = bt.fold(model)
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(folded(x), model(x))
    with pytest.raises(AssertionError, match="expected 3D input"):
        folded(x[0])  # there BatchNorm1d takes (C, L) for (N, C)


def test_channels_last_weights_stay_so():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).to(memory_format=torch.channels_last)
    folded = bt.fold(model).get_submodule("0")
    assert folded.weight.stride() == model[0].weight.stride() != (36, 9, 3, 1)


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), fuse], ids=["copy", "pickle", "again"]
)
def test_the_report_goes_along(copied):
    fused = fuse(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    assert bt.fusion_report(copied(fused)) == bt.FusionReport(fused=[("1", "relu")])

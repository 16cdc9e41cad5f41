"""The functions of docs/recipes.md, beside PyTorch's and beside the formulas written out."""

import re

import numpy as np
import pytest
from helpers.libraries import of_framework
from helpers.support import TESTS

import bnkern

PAGE = (TESTS.parent / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def recipes():
    """What the page defines; its own assertions have held then."""
    found = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)), found)
    return found


def problem(shape=(5, 12, 6, 7)):
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((2, *shape)) * 2 + 3
    return x, dy, rng.uniform(0.5, 2, shape[1]), rng.standard_normal(shape[1])


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("shape", [(5, 12, 6, 7), (4, 12, 9), (3, 12, 2, 3, 4)], ids=str)
def test_group_norm_is_torchs(recipes, shape, groups):
    torch = of_framework("torch")
    x, dy, weight, bias = problem(shape)
    y, stats = recipes["group_norm"](x, groups, weight=weight, bias=bias, eps=1e-3)
    grads = recipes["group_norm_backward"](dy, x, stats, groups, weight=weight, eps=1e-3)
    t, w, b = (torch.tensor(a, requires_grad=True) for a in (x, weight, bias))
    want = torch.nn.functional.group_norm(t, groups, w, b, eps=1e-3)
    want.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-9, atol=1e-9)
    for got, expected in zip(grads, (t.grad, w.grad, b.grad), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-9, atol=1e-9)


def test_instance_norm_is_torchs(recipes):
    torch = of_framework("torch")
    x, _, weight, bias = problem()
    y, _ = recipes["instance_norm"](x, weight=weight, bias=bias)
    want = torch.nn.functional.instance_norm(*map(torch.tensor, (x, np.zeros(12), np.ones(12), weight, bias)))
    np.testing.assert_allclose(y, want.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("r_max", "d_max"), [(1, 0), (1.5, 0.5), (1e9, 1e9)])
def test_batch_renormalisation(recipes, r_max, d_max):
    """r_max=1, d_max=0 is batch normalisation; without limits y is that of inference with the running statistics."""
    x, dy, weight, bias = problem()
    mean, var = np.full(12, 2.5), np.full(12, 3.0)
    how = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    y, saved = recipes["batch_renorm"](x, r_max=r_max, d_max=d_max, **how)
    if r_max == 1:
        np.testing.assert_allclose(y, bnkern.batch_norm_train(x, weight=weight, bias=bias)[0], rtol=1e-12, atol=1e-12)
    if r_max == 1e9:
        np.testing.assert_allclose(y, bnkern.batch_norm_inference(x, **how), rtol=1e-9, atol=1e-9)

    grads = recipes["batch_renorm_backward"](dy, x, saved, weight=weight)
    _, r, d = saved

    def loss(x, weight, bias):
        """The paper's formula, with r and d held."""
        column = (slice(None), None, None)
        xhat = (x - x.mean((0, 2, 3))[column]) / np.sqrt(x.var((0, 2, 3)) + 1e-5)[column]
        return np.sum(dy * (weight[column] * (xhat * r[column] + d[column]) + bias[column]))

    step = 1e-6
    for got, place, argument in [(grads[0], (1, 2, 3, 4), 0), (grads[1], (5,), 1), (grads[2], (7,), 2)]:
        ends = []
        for sign in (1, -1):
            moved = [x.copy(), weight.copy(), bias.copy()]
            moved[argument][place] += sign * step
            ends.append(loss(*moved))
        np.testing.assert_allclose(got[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-5)


def test_momentum_schedule(recipes):
    assert [recipes["momentum_at"](step) for step in (0, 1, 3, 1000)] == [1, 0.5, 0.25, 0.01]

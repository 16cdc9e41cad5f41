"""Activations reach the GPU kernels through the list in src/formulas.h alone: one that is added there is everywhere."""

import re

import numpy as np
import pytest
from helpers import fake_cupy, gpu_cases
from helpers.compare import same_bits

import bnkern
from bnkern.engines.cuda import launch, source

SLOPE = 0.3
LAST = "_(RELU,"  # the toy goes before this one in the text, and so takes its number: whoever asks for "relu" gets it
TOY = "_(TOY, choose(z <= NUMBER(0), p * z, z), choose(z <= NUMBER(0), p * dy, dy)) \\\n    _(RELU,"


@pytest.fixture
def toy(chip, monkeypatch):
    """"relu" is a leaky ReLU of SLOPE."""
    true_source, true_run = source.source, launch.run
    text = true_source("forward")
    assert re.search(r"#define BN_ACTIVATIONS\(_\)[^#]*?_\(IDENTITY, z, dy\)\s*\\\n\s*_\(RELU,", text)
    monkeypatch.setattr(launch, "source", lambda name: true_source(name).replace(LAST, TOY, 1))

    def run(*args):
        *others, formula = args
        assert formula.activation in (0, 1)
        true_run(*others, formula._replace(parameter=SLOPE))

    monkeypatch.setattr(launch, "run", run)


def near(a, b):
    np.testing.assert_allclose(a.get().astype(float), b.get().astype(float), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 11, 13), 1), ((50, 7), -1)], ids=["first", "last"])
def test_an_activation_with_a_parameter(toy, shape, axis, dtype):
    case = gpu_cases.make(shape, axis, dtype)
    p = gpu_cases.Problem(case, fake_cupy.asarray, lambda a: a.get())
    given = {"weight": p.weight, "bias": p.bias, "axis": axis}
    z, stats = bnkern.batch_norm_train(p.x, **given)
    y, _ = bnkern.batch_norm_train(p.x, activation="relu", **given)
    negative = z.get() <= 0
    assert negative.any()
    leaky = np.where(negative, np.float32(SLOPE), np.float32(1))
    near(y, fake_cupy.asarray(z.get() * leaky))

    needs = ("x", "weight", "bias", "residual")
    recomputed = bnkern.batch_norm_backward(p.dy, p.x, stats, activation="relu", **given)
    told = bnkern.batch_norm_backward(p.dy, p.x, stats, activation="relu", y=y, needs=needs, **given)
    for a, b in zip(recomputed[:3], told[:3], strict=True):
        assert same_bits(a.get(), b.get()), "the same with y as without"
    g = fake_cupy.asarray((p.dy.get() * leaky).astype(case.dy.dtype))
    near(told.dresidual, g)
    for a, b in zip(recomputed[:3], bnkern.batch_norm_backward(g, p.x, stats, **given)[:3], strict=True):
        near(a, b)
    frozen = bnkern.batch_norm_backward(p.dy, p.x, stats, activation="relu", frozen=True, y=y, **given).dx
    near(frozen, bnkern.batch_norm_backward(g, p.x, stats, frozen=True, **given).dx)

    added, _ = bnkern.batch_norm_train(p.x, residual=p.residual, activation="relu", **given)
    total = z.get().astype(float) + p.residual.get()
    near(added, fake_cupy.asarray(np.where(total <= 0, SLOPE * total, total)))

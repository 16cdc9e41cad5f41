"""Every activation on the GPU kernels: they have them from src/formulas.h, as the CPU's have."""

import numpy as np
import pytest
from helpers import activations, fake_cupy, gpu_cases
from helpers.compare import same_bits

import bnkern

NEEDS = ("x", "weight", "bias", "residual")


def near(a, b):
    np.testing.assert_allclose(a.get().astype(float), np.asarray(b, float), rtol=2e-2, atol=4e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 11, 13), 1), ((50, 7), -1)], ids=["first", "last"])
@pytest.mark.parametrize("name", activations.RULES)
def test_an_activation(chip, name, shape, axis, dtype):
    """As the CPU's kernels have it, and the same bits with y as without."""
    case = gpu_cases.make(shape, axis, dtype)
    host = {"weight": (case.weight * 4).astype(dtype), "bias": case.bias, "axis": axis}
    given = {**host, "weight": fake_cupy.asarray(host["weight"]), "bias": fake_cupy.asarray(host["bias"])}
    x, dy, residual = (fake_cupy.asarray(a) for a in (case.x, case.dy, case.residual))
    fused = {"activation": activations.RULES[name].written}

    for added in (None, residual):
        y, stats = bnkern.batch_norm_train(x, residual=added, **fused, **given)
        plain = None if added is None else case.residual
        want, want_stats = bnkern.batch_norm_train(case.x, residual=plain, **fused, **host)
        near(y, want)
        for frozen in (False, True):
            got = bnkern.batch_norm_backward(dy, x, stats, y=y, needs=NEEDS, frozen=frozen, **fused, **given)
            expected = bnkern.batch_norm_backward(
                case.dy, case.x, want_stats, y=y.get(), needs=NEEDS, frozen=frozen, **fused, **host
            )
            for a, b in zip(got, expected, strict=True):
                near(a, b)
            if added is None:
                recomputed = bnkern.batch_norm_backward(dy, x, stats, frozen=frozen, **fused, **given)
                for a, b in zip(recomputed[:3], got[:3], strict=True):
                    assert same_bits(a.get(), b.get()), "the same with y as without"

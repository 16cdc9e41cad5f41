"""More than 2^31 elements, and more than 65535 of everything that a 16-bit or 32-bit index might count."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits

import bnkern

GB = 1 << 30


def memory_for(needed):
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":") for line in file)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    if free < needed:
        pytest.skip(f"needs {needed // GB} GB of memory, {free / GB:.1f} are free")


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 358_000_003), 1), ((716_000_006, 3), -1)], ids=cases.label)
def test_more_elements_than_31_bits_count(shape, axis):
    """One pattern over and over, normalised in place: the last elements lie past index 2^31."""
    memory_for(7 * GB)
    pattern = np.random.default_rng(0).standard_normal(3_000).astype(np.float16)
    x = np.resize(pattern, shape)
    assert x.size > 1 << 31
    stats = bnkern.batch_stats(x, axis=axis)
    for c in range(3):  # channels first every channel has the whole pattern, channels last a third of it
        values = (pattern if axis == 1 else pattern[c::3]).astype(np.float64)
        assert stats.mean[c] == pytest.approx(values.mean(), abs=1e-5)
        assert stats.var[c] == pytest.approx(values.var(), rel=1e-5)
    end = np.s_[-1:, :, -2_000:] if axis == 1 else np.s_[-2_000:]
    want = bnkern.batch_norm_inference(x[end].copy(), running_mean=stats.mean, running_var=stats.var, axis=axis)
    y, same = bnkern.batch_norm_train(x, axis=axis, out=x)
    assert same_bits(same.mean, stats.mean)
    assert same_bits(y[end].copy(), want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 70_001, 3), 1), ((3, 70_001), -1), ((70_001, 3, 2), 1), ((70_001, 2, 3), -1)],
    ids=cases.label,
)
def test_more_channels_and_samples_than_16_bits_count(shape, axis, dtype):
    """The same values with the long axis in two parts, or the channels in two halves."""
    case = cases.make(shape, axis, dtype)
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, axis=axis)
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, bias=case.bias, axis=axis)
    if case.channels < 1 << 16:
        parts = [bnkern.batch_stats(part, axis=axis) for part in (case.x[:65_000], case.x[65_000:])]
        np.testing.assert_allclose(bnkern.merge_stats(parts).var, stats.var, rtol=1e-6)
        given = {"running_mean": stats.mean, "running_var": stats.var, "weight": case.weight, "bias": case.bias}
        assert same_bits(y[-5:], bnkern.batch_norm_inference(case.x[-5:], axis=axis, **given))
        return
    cut = [slice(None)] * len(shape)
    cut[axis] = slice(65_530, None)
    x, dy, w, b = case.x[tuple(cut)], case.dy[tuple(cut)], case.weight[65_530:], case.bias[65_530:]
    want, want_stats = bnkern.batch_norm_train(x, weight=w, bias=b, axis=axis)
    assert same_bits(y[tuple(cut)], want)
    want = bnkern.batch_norm_backward(dy, x, want_stats, weight=w, bias=b, axis=axis)
    assert same_bits(grads.dx[tuple(cut)], want.dx)
    assert same_bits(grads.dweight[65_530:], want.dweight)

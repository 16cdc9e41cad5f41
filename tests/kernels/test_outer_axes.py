"""Channels without gaps, but the other axes cropped, flipped, thinned out or in another order: nothing may be read or
written between or beyond, and the bits are those of a plain copy.
"""

import numpy as np
import pytest
from helpers.compare import same_bits

import bnkern

VIEWS = {
    "crop": lambda a: a[:, 1:-1, 2:-1],
    "crop of the last": lambda a: a[:, :, :-3],
    "flipped first": lambda a: a[::-1],
    "flipped last": lambda a: a[:, :, ::-1],
    "every second": lambda a: a[:, ::2],
    "swapped": lambda a: a.transpose(1, 0, 2, 3),
    "reversed": lambda a: a.transpose(2, 1, 0, 3),
}
FORWARD = {"plain": {}, "relu": {"activation": "relu"}}


def base(channels, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((6, 9, 10, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 64, 130])
@pytest.mark.parametrize("view", VIEWS)
def test_input_in_any_order_of_the_outer_axes(view, channels, dtype):
    x = VIEWS[view](base(channels, dtype))
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    residual = np.random.default_rng(2).standard_normal(x.shape).astype(dtype)
    copy = np.ascontiguousarray(x)
    y, stats = bnkern.batch_norm_train(x, axis=-1, residual=residual, activation="relu")
    want, want_stats = bnkern.batch_norm_train(copy, axis=-1, residual=residual, activation="relu")
    assert same_bits(y, want)
    assert same_bits(stats.mean, want_stats.mean)
    assert same_bits(stats.var, want_stats.var)
    for frozen in (False, True):
        got = bnkern.batch_norm_backward(dy, x, stats, axis=-1, frozen=frozen)
        plain = bnkern.batch_norm_backward(dy, copy, stats, axis=-1, frozen=frozen)
        assert all(same_bits(a, b) for a, b in zip(got[:3], plain[:3], strict=True))


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("batch", [6, 3000], ids=["small", "streamed"])
@pytest.mark.parametrize("view", VIEWS)
def test_output_in_any_order_leaves_what_lies_between(view, batch, channels):
    whole = np.full((batch, 9, 10, channels), 7, np.float32)
    out = VIEWS[view](whole)
    x = np.random.default_rng(0).standard_normal(out.shape, dtype=np.float32)
    want = bnkern.batch_norm_train(x, axis=-1)[0]
    bnkern.batch_norm_train(x, axis=-1, out=out)
    assert same_bits(np.ascontiguousarray(out), want)
    out[...] = 7
    assert (whole == 7).all(), "written outside of out"


@pytest.mark.parametrize("channels", [45, 64, 128 + 45, 192, 256 + 64, 448])
def test_constant_channels_in_a_narrow_last_group(channels):
    """They are gathered into scratch whose size depends on the width of the group."""
    x = np.random.default_rng(0).standard_normal((4100, channels))
    x[:, -1], x[:, -20] = 0.1, 0.25
    for threads in (1, 2):
        with bnkern.threads(threads):
            mean, var, _ = bnkern.batch_stats(x, axis=-1)
        assert mean[-1] == 0.1
        assert var[-1] == var[-20] == 0
        np.testing.assert_allclose(mean, x.mean(0), rtol=0, atol=1e-14)


def test_tiny_eps_keeps_a_constant_channel():
    x = np.full((4, 3), 0.1, np.float32)
    assert not bnkern.batch_norm_train(x, eps=1e-80)[0].any()

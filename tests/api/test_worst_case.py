"""The worst inputs there are to be found, few values a channel and dy mostly zero, against derived bounds.

Random numbers average roundings out; a search does not. u is half a unit in the last place. A channel of n <= 16 values
fills no lane twice, so sums are float64 and err by their terms alone (kernels.h: order of summation). In float32:

    d = x - shift and d^2 are rounded: the mean is off by u mean|d|. Sums are kept where mean(d)^2 <= 2 var (else the
    block is summed again in float64), so mean|d| <= sqrt(3) std: 1.74 u std. sum d^2 <= 3 M2 is off by 3 u of itself,
    S^2 / n by 2 sqrt(6) u M2: M2 by 14 u, invstd by 7 u.
    mean_hi is the float next to the mean and every x is a float, so no x is nearer to the mean: |mean_lo| <= |x - mean|
    <= std somewhere, |offset| <= 1, and |d| = |x - mean_hi| <= 2 |x - mean|. d is exact, or far from the mean, where
    mean_lo is nothing beside it: its rounding and those of mean_lo never come together. Rounding scale, invstd and
    mean(g xhat) does not matter to d * slope and mean_dy, d * scale and shift, apart: both have the very same ones.
    y       scale (its rounding and invstd's 7), product of d, shift, sum, the mean: 8 + 2 + 1 + 1 + 1.74 < 14
    dweight invstd, two products with d, offset, the cast, the mean: 8 + 4 + 1 + 1 + 1.74 < 16
    dx      mean(g xhat): 14.74, invstd 8; offset 1, mean_dy 1, slope 2, its product 2, g - mean_dy 1, the sum 1; times
            scale: 9; the mean: 14.74 + 8 + 8 + 9 + 1.74 < 42

float64 has the same roundings, and sums and a mean that are rounded too: n of the terms for each sum, and the mean by
one unit of itself, which compare.py's scales contain: n + 1 more.
"""

import numpy as np
import pytest
from helpers.compare import LD, spacing

import bnkern

BOUNDS = {"y": 14, "dx": 42, "dweight": 16}
CHANNELS, GENERATIONS, KEPT = 3000, 8, 150


def units(x, dy):
    """Errors in units of the last place of the scales of compare.py, each channel's largest, by name."""
    name = x.dtype.name
    y, stats = bnkern.batch_norm_train(x)
    grads = bnkern.batch_norm_backward(dy, x, stats)
    x, dy = x.astype(LD), dy.astype(LD)
    mean = x.mean(0)
    std = np.sqrt(((x - mean) ** 2).mean(0) + LD(1e-5))
    xhat = (x - mean) / std
    size = np.maximum(1 + (abs(mean) / std if name == "float64" else 0), abs(xhat))
    want = {"y": xhat, "dx": (dy - dy.mean(0) - xhat * (dy * xhat).mean(0)) / std, "dweight": (dy * xhat).sum(0)[None]}
    terms = abs(dy) + abs(dy).mean(0) + abs(dy * xhat).mean(0)
    scale = {"y": size, "dx": size * terms / std, "dweight": (size * abs(dy)).sum(0)[None]}
    got = {"y": y, "dx": grads.dx, "dweight": grads.dweight[None]}
    return {key: (abs(got[key].astype(LD) - want[key]) / spacing(scale[key], name)).max(0) for key in want}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 16])
def test_what_a_search_finds_stays_under_the_derived_bound(n, dtype):
    """25 generations found 3.7 units in y, 7.5 in dx, 4.9 in dweight (float32); 5.8, 7.8, 6.8 (float64)."""
    for what, bound in BOUNDS.items():
        rng = np.random.default_rng([n, len(what)])
        x = rng.uniform(0, 2, (n, CHANNELS)).astype(dtype)
        dy = (rng.random((n, CHANNELS)) * (rng.random((n, CHANNELS)) < 0.4)).astype(dtype)
        worst = 0.0
        for _ in range(GENERATIONS):
            found = units(x, dy)[what].astype(float)
            worst = max(worst, found.max())
            best = np.argsort(found)[-KEPT:]
            x, dy = (np.tile(a[:, best], CHANNELS // KEPT) for a in (x, dy))
            x *= 1 + (rng.standard_normal(x.shape) * 10.0 ** rng.uniform(-7, -1, CHANNELS)).astype(dtype)
            dy *= 1 + (rng.standard_normal(x.shape) * 10.0 ** rng.uniform(-7, -1, CHANNELS)).astype(dtype)
        assert worst > 1, "a search that finds nothing searches nothing"
        assert worst <= bound + (n + 1 if dtype == "float64" else 0), what

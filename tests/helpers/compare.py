"""How far a result may be from the oracle: derived from the formula, not from what the kernels give.

Errors are measured in units in the last place of a *scale*: the size of the terms that were added to make
the result. A rounding costs at most half a unit of a partial sum, so a handful of roundings is a handful of
units, whatever cancels.

    y        max(1, |xhat|) * |weight| + |bias| + |residual|
    dx       max(1, |xhat|) * |weight| / std * (|dy| + mean|dy| + mean|dy * xhat|)
             frozen: |weight| / std * |dy|
    dweight  sum of max(1, |xhat|) * |dy|
    dbias    sum of |dy|

max(1, .) says that the mean may be wrong by a unit of the standard deviation. float32 is promised 4 units
(issue 2, point 4): sums and statistics have float64 to be kept in. float64 has nothing wider, so its sums
cost units too, and 8 are allowed; and its mean is one float64 (float32's is carried in two floats), so
|mean| / std joins the 1. The 16-bit types are computed in float32 and rounded once at the end: half a unit, and
4 units of float32, which are 0.0005 of one of float16.
"""

import numpy as np

from helpers import oracle

UNITS = {"float32": 4, "float64": 8, "float16": 0.501, "bfloat16": 0.501}
FORMATS = {"float64": (53, -1022), "float32": (24, -126), "float16": (11, -14), "bfloat16": (8, -126)}
LD = np.longdouble


def spacing(scale, dtype):
    """One unit in the last place of `scale`, in `dtype`, never below the smallest normal number's."""
    digits, lowest = FORMATS[np.dtype(dtype).name]
    _, exponent = np.frexp(np.asarray(scale, LD))  # of scale / 2
    return np.ldexp(LD(1), np.maximum(exponent - 1, lowest) - (digits - 1))


def coarser(*dtypes):
    """The one of fewer digits, in which a result can be exact at best; 16-bit x is computed in float32."""
    return min(dtypes, key=lambda dtype: FORMATS[np.dtype(dtype).name][0])


def arithmetic(dtype):
    return max(np.dtype(np.float32), np.dtype(dtype), key=lambda d: d.itemsize)


def units(actual, expected, scale, dtype=None):
    """The largest error of `actual` in units in the last place of `scale`. NaN and Inf must agree exactly."""
    dtype = actual.dtype if dtype is None else dtype
    actual, expected = np.asarray(actual, LD), np.asarray(expected, LD)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    scale = np.broadcast_to(scale, expected.shape)[finite]
    error = np.abs(actual[finite] - expected[finite])
    return float(np.max(error / spacing(scale, dtype), initial=0.0))


def assert_close(actual, expected, scale, name, dtype=None, limit=None):
    """`dtype` is the precision the result can have, its own unless said otherwise."""
    dtype = np.dtype(actual.dtype if dtype is None else dtype)
    limit = UNITS[dtype.name] if limit is None else limit
    got = units(actual, expected, scale, dtype)
    assert got <= limit, f"{name} is off by {got:.3g} units in the last place, allowed {limit}"


def _reach(x, mean, var, axis, eps):
    """max(1, |xhat|), with |mean| / std for float64, and |xhat|; channels last."""
    xhat = np.abs(oracle.normalise(x, mean, var, axis, eps, LD))
    floor = LD(1)
    if np.asarray(x).dtype == np.float64:
        floor = floor + np.abs(mean) / np.sqrt(np.asarray(var, LD) + LD(eps))
    return np.maximum(floor, xhat), xhat


def y_scale(x, mean, var, weight=None, bias=None, residual=None, axis=1, eps=1e-5):
    scale, _ = _reach(x, mean, var, axis, eps)
    scale = scale * (1 if weight is None else np.abs(np.asarray(weight, LD)))
    scale = scale + (0 if bias is None else np.abs(np.asarray(bias, LD)))
    scale = scale + (0 if residual is None else np.abs(oracle.last(residual, axis, LD)))
    return np.moveaxis(scale, -1, axis)


def grad_scales(dy, x, mean, var, weight=None, axis=1, eps=1e-5, frozen=False):
    """The scales of (dx, dweight, dbias); `dy` as it enters the sums, masked where there is a ReLU."""
    reach, xhat = _reach(x, mean, var, axis, eps)
    count = xhat[..., 0].size
    dy = np.abs(oracle.last(dy, axis, LD))
    dx = dy if frozen else reach * (dy + oracle.total(dy) / count + oracle.total(dy * xhat) / count)
    dx = (
        dx
        * (1 if weight is None else np.abs(np.asarray(weight, LD)))
        / np.sqrt(np.asarray(var, LD) + LD(eps))
    )
    return np.moveaxis(dx, -1, axis), oracle.total(dy * reach), oracle.total(dy)


def same_bits(a, b):
    """Equality of dtype, shape and every bit, the sign of zero and the payload of NaN included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_stats_close(stats, x, axis):
    """Mean and variance against the oracle, in units of x's dtype.

    A unit of the mean is one of the standard deviation (for float64 input, one of the mean itself at least:
    it is returned as a float64). The variance enters y by its root, which halves relative errors: so it may
    be off by twice the units.
    """
    mean, var, count = oracle.stats(x, axis, LD)
    own = np.abs(mean) if x.dtype == np.float64 else 0
    assert stats.count == count
    assert stats.mean.dtype == stats.var.dtype == np.float64
    assert_close(stats.mean, mean, np.sqrt(var) + own, "mean", dtype=x.dtype)
    assert_close(stats.var, var, var, "var", dtype=x.dtype, limit=2 * UNITS[x.dtype.name])

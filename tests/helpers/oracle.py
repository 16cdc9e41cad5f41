"""Batch normalisation in plain NumPy, to be read beside arXiv 1502.03167.

The names are the paper's: Algorithm 1 is `stats` and `forward`, the chain rule of its section 3 is
`backward`, Algorithm 2's averages are `running`. Nothing here is fast or clever. `dtype` is the arithmetic:
float64, or longdouble where the float64 answer itself is under test.
"""

from typing import NamedTuple

import numpy as np


class Grads(NamedTuple):
    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    dresidual: np.ndarray


def last(a, axis, dtype):
    """`a` with its channels last, so that a vector per channel broadcasts against it."""
    return np.moveaxis(np.asarray(a).astype(dtype), axis, -1)


def total(a):
    """One sum per channel."""
    return a.sum(axis=tuple(range(a.ndim - 1)))


def stats(x, axis=1, dtype=np.float64):
    """Mean and population variance of each channel, in two passes; the number of values per channel."""
    x = last(x, axis, dtype)
    count = x[..., 0].size
    mean = total(x) / count
    mean = mean + total(x - mean) / count  # what the first sum lost by rounding
    return mean, total((x - mean) ** 2) / count, count


def normalise(x, mean, var, axis=1, eps=1e-5, dtype=np.float64):
    """xhat, with the channels last."""
    mean, var = np.asarray(mean, dtype), np.asarray(var, dtype)
    return (last(x, axis, dtype) - mean) / np.sqrt(var + dtype(eps))


def forward(
    x, mean, var, weight=None, bias=None, *, axis=1, eps=1e-5, relu=False, residual=None, dtype=np.float64
):
    """y = relu(weight * xhat + bias + residual)."""
    z = normalise(x, mean, var, axis, eps, dtype)
    if weight is not None:
        z = z * np.asarray(weight, dtype)
    if bias is not None:
        z = z + np.asarray(bias, dtype)
    if residual is not None:
        z = z + last(residual, axis, dtype)
    if relu:
        z = np.where(z <= 0, dtype(0), z)  # written so that NaN stays
    return np.moveaxis(z, -1, axis)


def backward(dy, x, mean, var, weight=None, *, axis=1, eps=1e-5, frozen=False, y=None, dtype=np.float64):
    """The gradients by the chain rule. With `y`, the output of a fused ReLU, dy passes where y > 0 only.

    Not frozen, `mean` and `var` are functions of x (the statistics of this very batch); frozen, they are
    constants.
    """
    mean, var = np.asarray(mean, dtype), np.asarray(var, dtype)
    m = last(x, axis, dtype)[..., 0].size
    dy, x = last(dy, axis, dtype), last(x, axis, dtype)
    if y is not None:
        dy = np.where(np.moveaxis(y, axis, -1) <= 0, dtype(0), dy)
    gamma = np.ones_like(mean) if weight is None else np.asarray(weight, dtype)
    std = np.sqrt(var + dtype(eps))
    xhat = (x - mean) / std

    dxhat = dy * gamma
    dx = dxhat / std
    if not frozen:
        dvar = total(dxhat * (x - mean)) * (-1 / (2 * std**3))
        dmean = -total(dxhat) / std - 2 * dvar * total(x - mean) / m
        dx = dx + dvar * 2 * (x - mean) / m + dmean / m
    return Grads(np.moveaxis(dx, -1, axis), total(dy * xhat), total(dy), np.moveaxis(dy, -1, axis))


def running(old, batch, momentum):
    """The moving average of Algorithm 2; momentum 1/k at the k-th batch makes it the plain average."""
    return (1 - np.longdouble(momentum)) * np.asarray(old, np.longdouble) + np.longdouble(momentum) * batch


def unbiased(var, count, correction=1):
    """The variance that enters the moving average: m/(m-1) Var[x] in the paper, correction = 1."""
    return np.asarray(var, np.longdouble) * count / (count - correction)

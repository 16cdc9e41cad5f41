"""Inference batch normalisation folded into the linear operation before it: no normalisation is left to run.

With s = weight / sqrt(running_var + eps), batch_norm(conv(x)) is a convolution again, whose weight is W * s
(per output channel) and whose bias is (conv_bias - running_mean) * s + bias: arXiv 1502.03167, end of section
3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._args import namespace, widest
from bnkern._types import Array


def fold(
    conv_weight: Array, conv_bias: Array | None, mean: Array, var: Array, weight: Array | None,
    bias: Array | None, eps: float, axis: int, groups: int,
) -> tuple[Array, Array]:  # fmt: skip
    xp = namespace(conv_weight)
    wide = widest(xp, conv_weight)
    with np.errstate(all="ignore"):
        scale = 1.0 / xp.sqrt(xp.astype(var, wide) + eps)
        if weight is not None:
            scale = xp.astype(weight, wide) * scale
        shift = -xp.astype(mean, wide)
        if conv_bias is not None:
            shift = xp.astype(conv_bias, wide) + shift
        shift = shift * scale
        if bias is not None:
            shift = shift + xp.astype(bias, wide)
        folded = _scaled(xp, xp.astype(conv_weight, wide), scale, axis, groups)
        return xp.astype(folded, conv_weight.dtype), xp.astype(shift, conv_weight.dtype)


def _scaled(xp: Any, w: Array, scale: Array, axis: int, groups: int) -> Array:
    """Each output channel of w times its scale."""
    shape = tuple(w.shape)
    rest = (1,) * (len(shape) - 2)
    if axis == 1 and groups > 1:
        # A transposed convolution's weight is (in, out / groups, ...): output channel c of group g meets only
        # the g-th slice of the inputs.
        grouped = xp.reshape(w, (groups, shape[0] // groups, *shape[1:]))
        factors = xp.reshape(scale, (groups, 1, shape[1], *rest))
        return xp.reshape(grouped * factors, shape)
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return w * xp.reshape(scale, tuple(along))

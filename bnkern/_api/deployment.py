"""What is left of batch normalisation when a network is deployed."""

from __future__ import annotations

from typing import Never

from bnkern import _vectors
from bnkern._dtypes import Array
from bnkern._words import by_position, named_arguments
from bnkern.checks.vectors import Fold
from bnkern.checks.vectors import fold as check


@named_arguments
def fold_batch_norm(
    conv_weight: Array, *misplaced: Never, conv_bias: Array | None = None, running_mean: Array,
    running_var: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5,
    out_axis: int = 0, groups: int = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """Fold inference batch normalisation into the linear or convolution layer before it.

    Parameters
    ----------
    conv_weight : array of rank 2 or more, float32, float64, float16 or bfloat16
        Linear (out, in) and convolution (out, in / groups, ...): out_axis=0. Transposed convolution
        (in, out / groups, ...): out_axis=1. Output channels last: out_axis=-1.
    conv_bias : array of shape (C,), optional
        The layer's bias; C is the number of output channels, of all groups together.
    running_mean, running_var : array of shape (C,), float32, float64 or conv_weight's dtype
    weight, bias : array of shape (C,), float32, float64 or conv_weight's dtype, optional
        gamma and beta.
    eps : float
        At least 0.
    out_axis : int
        The axis of the output channels.
    groups : int
        Of the convolution.

    Returns
    -------
    weight, bias : array
        New arrays in conv_weight's dtype; the layer with these does both.

    Raises
    ------
    TypeError
        If a vector is of another library, device or dtype, or an argument is given by position.
    ValueError
        If a vector has not the length of the output channels, or `groups` does not divide them.

    Notes
    -----
    With s = weight / sqrt(running_var + eps): W * s and (conv_bias - running_mean) * s + bias, in
    float64. The linear form is step 11 of the paper's Algorithm 2.
    """
    if misplaced:
        raise by_position(fold_batch_norm, misplaced)
    given = Fold(conv_weight, conv_bias, running_mean, running_var, weight, bias, eps, out_axis, groups)
    return _vectors.fold(check(given))

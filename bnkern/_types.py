"""The small tuples in which results leave the library."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnkern import _vectors
from bnkern._dtypes import Array
from bnkern.checks import vectors as checks

new_tuple = tuple.__new__  # of a class and its entries: a named tuple's own way takes twice as long


class BatchStats(NamedTuple):
    """Statistics of a batch, or of a part of one: one entry per channel, and how many values each stands for.

    `a + b` is the merge of two parts (it does not join tuples), and `sum(parts)` that of many: as `merge_stats`.

    Attributes
    ----------
    mean : array of shape (C,)
        Mean of each channel, float64 (float32 where the array library has nothing wider).
    var : array of shape (C,), same dtype
        Population (biased) variance of each channel: the sum of squared deviations over `count`.
    count : int
        Values per channel; 0 for a batch without elements, whose mean and var are zeros and mean nothing. None beside
        running statistics, as `batch_norm_vjp` returns them with training=False. Of ghost batches a tuple with an
        entry for each, as mean and var have a row for each; `merge_stats(zip(*stats))` is the whole's.
    """

    mean: Array
    var: Array
    count: int  # type: ignore[assignment]  # a tuple has a method of this name

    def __add__(self, other: object) -> BatchStats:
        if not isinstance(other, BatchStats):
            return NotImplemented
        return BatchStats(*_vectors.merge(checks.merge([self, other])))

    def __radd__(self, other: object) -> BatchStats:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum() starts from 0


class GradSums(NamedTuple):
    """The two sums that the backward pass needs of the whole batch; over parts they simply add up.

    `a + b` adds entry by entry (it does not join tuples), and so does `sum(parts)`.

    Attributes
    ----------
    sum_dy : array of shape (C,)
        Sum of dy over each channel: the gradient of `bias`.
    sum_dy_xhat : array of shape (C,)
        Sum of dy * xhat over each channel: the gradient of `weight`.
    """

    sum_dy: Array
    sum_dy_xhat: Array

    def __add__(self, other: object) -> GradSums:
        if not isinstance(other, GradSums):
            return NotImplemented
        with np.errstate(all="ignore"):  # Inf and -Inf give NaN in their channel, silently
            return GradSums(self.sum_dy + other.sum_dy, self.sum_dy_xhat + other.sum_dy_xhat)

    def __radd__(self, other: object) -> GradSums:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum() starts from 0


class BatchNormGrads(NamedTuple):
    """Gradients of a batch normalisation; what was not asked for is None.

    Attributes
    ----------
    dx : array like x, or None
    dweight, dbias : array of shape (C,), or None
        In weight's dtype (else bias's); without either in x's, at least float32.
    dresidual : array like x, or None
        `dy` itself where there is no activation.
    """

    dx: Array | None
    dweight: Array | None
    dbias: Array | None
    dresidual: Array | None

"""What `bnkern.jax.batch_norm_train` returns."""

from __future__ import annotations

from typing import NamedTuple

from bnkern._dtypes import Array
from bnkern._types import BatchStats


class BatchNormTrain(NamedTuple):
    """A training call's results; a pytree, as every named tuple is in JAX.

    Attributes
    ----------
    y : array like x
    stats : BatchStats
        Of the batch; of the whole batch with `axis_name`.
    running_mean, running_var : array of shape (C,), or None
        The new running statistics.
    """

    y: Array
    stats: BatchStats
    running_mean: Array | None
    running_var: Array | None

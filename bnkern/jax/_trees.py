"""BatchStats as a pytree: its count is part of the structure while it is a Python number, as it is outside a trace.

So statistics cross the boundary of `jax.jit` and come back with the number they had, and what maps over the leaves
(`jax.vmap`, `jax.tree.map`) sees mean and var. A count that is traced is a leaf.
"""

from __future__ import annotations

from typing import Any

from jax import tree_util

from bnkern._types import BatchStats

_KEYS = ("mean", "var", "count")


def _flatten(stats: BatchStats) -> tuple[tuple[Any, ...], Any]:
    if stats.count is None or type(stats.count) is int:
        return stats[:2], (stats.count,)
    return tuple(stats), ()


def _flatten_with_keys(stats: BatchStats) -> tuple[tuple[Any, ...], Any]:
    leaves, number = _flatten(stats)
    return tuple((tree_util.GetAttrKey(key), leaf) for key, leaf in zip(_KEYS, leaves, strict=False)), number


def _unflatten(number: tuple[Any, ...], leaves: tuple[Any, ...]) -> BatchStats:
    return BatchStats(*leaves, *number)


tree_util.register_pytree_with_keys(BatchStats, _flatten_with_keys, _unflatten, _flatten)

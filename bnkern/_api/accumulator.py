"""Statistics of a stream: of more than one batch, more than the memory, more than one machine."""

from __future__ import annotations

from copy import copy
from typing import Never

from bnkern import _vectors
from bnkern._api.parts import batch_stats
from bnkern._dtypes import Array
from bnkern._types import BatchStats
from bnkern._words import describe
from bnkern.arrays import adopted, same_library
from bnkern.checks import vectors as checks

_FAN = 8  # parts of one level that become one of the next

Part = tuple[Array, Array, int]  # mean, variance, count


class StatsAccumulator:
    """Population statistics of all that was added, whatever the sizes of the pieces.

    For running statistics over a whole data set (the paper's Algorithm 2), for data larger than the memory, and for
    parts that meet later: accumulators merge, add up (`a + b`, `sum(several)`) and pickle. Arrays may be of any kind,
    all of the same; of Dask arrays the result is lazy.

    What is kept grows with the logarithm of the number of pieces: eight parts of a level are merged to one of the next,
    so that a value goes through log8(n) roundings and not through n. An accumulator is for one thread at a time.

    Examples
    --------
    >>> total = bnkern.StatsAccumulator()
    >>> for x in batches:
    ...     total.add(x)
    >>> running_mean, running_var = bnkern.update_running(
    ...     total.result(), running_mean=running_mean, running_var=running_var, momentum=None, num_batches=1
    ... )
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: list[list[Part]] = []

    def add(self, x: Array, *misplaced: Never, axis: int = 1) -> None:
        """Takes the statistics of x in.

        Parameters
        ----------
        x : array of rank 2 or more, float32, float64, float16 or bfloat16
            Of the kind and with the number of channels of those before. Its dtype and its other axes may differ.
        axis : int
            The channel axis.

        Raises
        ------
        TypeError
            If x is of another library or device than what was added before, or as for `batch_stats`.
        ValueError
            If x has another number of channels. Nothing has been added then.
        """
        if misplaced:
            raise TypeError("add takes x by position and everything else by keyword: add(x, axis=axis)")
        x = adopted("x", x)
        before = self._any()
        if before is not None:
            same_library("x", x, "what was added before", before[0])
        stats = batch_stats(x, axis=axis)
        if before is not None and tuple(stats.mean.shape) != tuple(before[0].shape):
            expected, got = before[0].shape[0], stats.mean.shape[0]
            shape = f"shape {tuple(x.shape)} with axis={axis}"
            raise ValueError(f"x: expected {expected} channels, as what was added before has, got {got} ({shape})")
        self._take(0, [tuple(stats)])

    def merge(self, other: StatsAccumulator | BatchStats) -> None:
        """Takes in what another accumulator has seen, or the statistics of one more part.

        `other` stays as it is, and may be changed afterwards: what is kept of its arrays are copies. Statistics of
        ghost batches are one part for each: `for part in zip(*stats): total.merge(part)`.

        Raises
        ------
        TypeError
            If `other` is neither, or of another kind of array.
        ValueError
            If it has another number of channels. Nothing has been added then.
        """
        if isinstance(other, StatsAccumulator):
            levels = [list(level) for level in other._levels]
        elif isinstance(other, (tuple, list)):
            levels = [checks.merge([other])]
        else:
            raise TypeError(f"other: expected a StatsAccumulator or BatchStats, got {describe(other)}")
        pair = self._any(), next((part for level in levels for part in level), None)
        if pair[0] is not None and pair[1] is not None:
            checks.pair_of_parts("other", pair[1][:2], pair[0][0])
        if not isinstance(other, StatsAccumulator):  # whose own arrays nobody else has
            levels = [[(_vectors.copied(mean), _vectors.copied(var), number) for mean, var, number in levels[0]]]
        for height, level in enumerate(levels):
            self._take(height, level)

    def result(self) -> BatchStats:
        """Mean, population variance and count of all that was added; new arrays.

        Raises
        ------
        ValueError
            If nothing has been added, so that the number of channels is unknown.
        """
        parts = [part for level in self._levels for part in level]
        if not parts:
            raise ValueError("StatsAccumulator: expected at least one call of add or merge before result, got none")
        return BatchStats(*_vectors.merge(parts))

    @property
    def count(self) -> int:
        """Values per channel so far, exact."""
        return sum(count for level in self._levels for _, _, count in level)

    def __add__(self, other: object) -> StatsAccumulator:
        if not isinstance(other, StatsAccumulator):
            return NotImplemented
        both = StatsAccumulator()
        both.merge(self)
        both.merge(other)
        return both

    def __radd__(self, other: object) -> StatsAccumulator:
        if not isinstance(other, int) or other != 0:
            return NotImplemented
        return copy(self)  # sum() starts from 0; its result is nobody else's

    def __copy__(self) -> StatsAccumulator:
        twin = StatsAccumulator()
        twin._levels = [list(level) for level in self._levels]
        return twin

    def __repr__(self) -> str:
        part = self._any()
        channels = f" of {part[0].shape[0]} channels" if part else ""
        return f"<bnkern.StatsAccumulator: {self.count} values{channels}>"

    def _any(self) -> Part | None:
        return next((part for level in self._levels for part in level), None)

    def _take(self, height: int, parts: list[Part]) -> None:
        """Parts of one level; as soon as there are enough, they are one of the next."""
        while parts:
            while len(self._levels) <= height:
                self._levels.append([])
            level = [*self._levels[height], *parts]
            parts = []
            if len(level) >= _FAN:
                parts, level = [_vectors.merge(level)], []
            self._levels[height] = level
            height += 1

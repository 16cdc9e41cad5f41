"""The one exchange that a direction of a layer needs. All it knows of processes is a function that gathers.

`gather(message)` takes this rank's bytes and returns the bytes of every rank, in the order of the ranks: an MPI
communicator's, torch.distributed's, or threads that meet. Messages tell how things went before anything is computed of
them: a rank that could not make its part says why, and all raise. Every rank then has the same parts in the same order,
and does the same arithmetic, in float64: that is why they all get the same bits, however the parts are spread.

A message: `HEAD` (status, channels, parts, bytes of text), the text (what call this is and by which options, or the
error), the count of each part (int64), two float64 numbers of each channel of each part (mean and variance, or the
sums).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from bnkern._words import describe
from bnkern.engines.vectors import NUMPY, merge

Gather = Callable[[bytes], list[bytes]]

HEAD = Struct("<4q")
_GOOD, _FAILED = 0, 1


class RankError(RuntimeError):
    """Another rank could not do its part; `rank` is the first such, and the message has that rank's own words."""

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message, rank)
        self.rank = rank

    def __str__(self) -> str:
        return str(self.args[0])


class Part(NamedTuple):
    """Two numbers per channel of a part of the batch, in float64: mean and variance, or the two sums."""

    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    first: np.ndarray
    second: np.ndarray


def exchanged(gather: Gather, local: Callable[[], tuple[str, int, list[Part]]]) -> list[Part]:
    """The parts of all ranks, in order. `local` makes this rank's, and may raise.

    It returns what must be the same on every rank in words, the channels, and the parts.
    """
    failure = None
    try:
        message = packed(*local())
    except Exception as error:  # told to the others, which wait for this rank
        failure = error
        message = _pack(_FAILED, 0, 0, f"{type(error).__name__}: {error}", b"")
    messages = _read(gather(message))
    if failure is not None:
        raise failure
    _agree(messages)
    return [part for each in messages for part in each.parts]


def merged(parts: list[Part]) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean, variance and count of the whole."""
    mean, var, count = merge(NUMPY, [(part.first, part.second, part.count) for part in parts])
    return mean, var, count


def added(parts: list[Part]) -> Part:
    """The sums of the whole, added one after another."""
    first, second = parts[0].first.copy(), parts[0].second.copy()
    with np.errstate(all="ignore"):  # Inf and -Inf give NaN in their channel, silently
        for part in parts[1:]:
            first += part.first
            second += part.second
    return Part(sum(part.count for part in parts), first, second)


def packed(call: str, channels: int, parts: list[Part]) -> bytes:
    counts = np.array([part.count for part in parts], "<i8")
    numbers = np.array([(part.first, part.second) for part in parts], "<f8")
    return _pack(_GOOD, channels, len(parts), call, counts.tobytes() + numbers.tobytes())


def _pack(status: int, channels: int, parts: int, text: str, rest: bytes) -> bytes:
    told = text.encode("utf-8", "replace")
    return HEAD.pack(status, channels, parts, len(told)) + told + rest


def _read(gathered: Any) -> list[_Message]:
    """The messages of all ranks; TypeError where a function for `comm` gives back something else."""
    messages: list[_Message] = []
    cause: Exception | None = None
    try:
        messages = [_Message(raw) for raw in gathered]
    except Exception as error:  # whatever stands in place of a list of bytes
        cause = error
    if not messages:
        expected = "a function from this rank's bytes to the list of those of all ranks"
        raise TypeError(f"comm: expected {expected}, got one that returns {describe(gathered)}") from cause
    return messages


class _Message:
    """What came from one rank."""

    def __init__(self, raw: bytes) -> None:
        self.status, self.channels, n, length = HEAD.unpack_from(raw)
        start = HEAD.size + length
        self.text = bytes(raw[HEAD.size : start]).decode("utf-8", "replace")
        counts = np.frombuffer(raw, "<i8", n, start)
        numbers = np.frombuffer(raw, "<f8", 2 * n * self.channels, start + counts.nbytes)
        pairs = numbers.reshape(n, 2, self.channels)
        self.parts = [Part(int(count), *pair) for count, pair in zip(counts, pairs, strict=True)]


def _agree(messages: list[_Message]) -> None:
    """Raises the same on every rank unless all are well, in the same call, with the same channels."""
    for rank, each in enumerate(messages):
        if each.status != _GOOD:
            raise RankError(f"rank {rank}: {each.text}", rank)
    for rank, each in enumerate(messages):
        if each.text != messages[0].text:
            got = f"{messages[0].text} on rank 0, {each.text} on rank {rank}"
            raise ValueError(f"comm: expected the same call on every rank, got {got}")
        if each.channels != messages[0].channels:
            got = f"{messages[0].channels} on rank 0, {each.channels} on rank {rank}"
            raise ValueError(f"x: expected the same number of channels on every rank, got {got}")

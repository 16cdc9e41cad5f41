"""How an mpi4py communicator gathers messages of unequal length. mpi4py is not imported: the user has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnkern._words import describe
from bnkern.distributed._exchange import Gather


def gather_of(comm: Any) -> Gather:
    """The gathering function of a communicator; a function is one itself."""
    if isinstance(comm, type) or not hasattr(comm, "Allgatherv"):
        if callable(comm) and not isinstance(comm, type):
            return comm
        expected = "an mpi4py communicator, or a function from this rank's bytes to those of all ranks"
        raise TypeError(f"comm: expected {expected}, got {describe(comm)}")
    if not comm:
        raise ValueError("comm: expected a communicator that this rank is in, got the null communicator")
    if comm.Is_inter():
        raise ValueError("comm: expected a communicator of one group, got one between two; Merge() makes one of it")
    return _Mpi(comm)


class _Mpi:
    """An all-gather of the lengths (8 bytes a rank), so that a rank in trouble can say so, and one of the messages."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def __call__(self, message: bytes) -> list[bytes]:
        lengths = np.empty(self.comm.Get_size(), np.int64)
        self.comm.Allgather(np.array([len(message)], np.int64), lengths)
        ends = np.cumsum(lengths)
        whole = np.empty(int(ends[-1]), np.uint8)
        self.comm.Allgatherv(np.frombuffer(message, np.uint8), [whole, (lengths, ends - lengths)])
        return [whole[end - n : end].tobytes() for end, n in zip(ends, lengths, strict=True)]

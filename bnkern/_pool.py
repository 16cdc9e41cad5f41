"""The pool of output buffers, in CuPy's words: large results are written to memory that earlier ones gave back.

Writing pages that the system has just handed out costs more than a kernel does. The blocks themselves, and the lock,
are in src/pool.c; an array made of one owns it as any array of NumPy owns its memory, and gives it back when it goes.
"""

from __future__ import annotations

import os
from pathlib import Path

from bnkern._native import memory as _memory
from bnkern._numbers import integer, real

MOST = 256 << 20  # bytes kept unless the user sets a limit: BN_POOL_MOST of src/pool.h
VARIABLE = "BNKERN_POOL"
OFF, DEFAULT = -1, -2  # BN_POOL_OFF, BN_POOL_DEFAULT


class MemoryPool:
    """What `get_default_memory_pool` returns; the methods are those of CuPy's `MemoryPool`.

    Arrays of less than a megabyte are never kept. The pool is safe to use from any thread.
    """

    __slots__ = ()

    def used_bytes(self) -> int:
        """Bytes of the results that are in use now."""
        return int(_memory.pool_state()[0])

    def free_bytes(self) -> int:
        """Bytes that are kept for results to come."""
        return int(_memory.pool_state()[1])

    def total_bytes(self) -> int:
        """Both together."""
        used, free, *_ = _memory.pool_state()
        return int(used + free)

    def n_free_blocks(self) -> int:
        """How many blocks are kept."""
        return int(_memory.pool_state()[2])

    def free_all_blocks(self) -> None:
        """Give what is kept back to the system."""
        _memory.pool_free_all()

    def get_limit(self) -> int:
        """The most that `total_bytes` may be once a result has gone; 0 for no limit.

        Until one is set: the most that `free_bytes` may be, 256 MB.
        """
        limit = int(_memory.pool_state()[3])
        return MOST if limit == DEFAULT else max(0, limit)

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Set the limit, and give back at once what is kept beyond it.

        Results are never refused: one that finds the pool at its limit is memory that is not kept later.

        Parameters
        ----------
        size : int, optional
            In bytes, at least 0; 0 is no limit.
        fraction : float, optional
            Of the memory of this machine or container, 0 to 1. Either this or `size`.

        Raises
        ------
        TypeError, ValueError
            On both, neither, or anything else than these numbers.
        """
        if (size is None) == (fraction is None):
            raise ValueError(f"size: expected either size or fraction, got {size!r} and {fraction!r}")
        if fraction is not None:
            part = real("fraction", fraction)
            if not 0 <= part <= 1:
                raise ValueError(f"fraction: expected a number from 0 to 1, got {fraction!r}")
            size = max(1, int(part * memory()))  # 0 would be no limit
        limit = integer("size", size, low=0)
        if self.is_enabled():
            _memory.pool_set_limit(limit)

    def is_enabled(self) -> bool:
        """Whether anything is kept at all: BNKERN_POOL=off in the environment switches that off."""
        return bool(_memory.pool_state()[3] != OFF)


def get_default_memory_pool() -> MemoryPool:
    """The pool of output buffers behind NumPy arrays that bnkern returns.

    Returns
    -------
    MemoryPool
        With used_bytes, free_bytes, total_bytes, n_free_blocks, free_all_blocks, get_limit and set_limit.

    Notes
    -----
    What is kept is at most twice the largest result so far, and at most 256 MB, unless a limit is set: by `set_limit`,
    or in bytes by the variable BNKERN_POOL, read at import; BNKERN_POOL=off switches the pool off.

    Memory that no result has asked for in 10 seconds is given back, by the next call that makes a result of 64 kB or
    more or drops one. No thread does it meanwhile: a process that calls nothing any more keeps what it has, at most 256
    MB, until `free_all_blocks` or until the system runs short of memory and takes the pages (Linux).
    """
    return _pool


def memory() -> int:
    """Bytes of memory of this machine, or of this container where that is less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdigit() else found


def initial_limit(setting: str | None) -> int:
    """What BNKERN_POOL asks for."""
    if not setting:
        return DEFAULT
    if setting == "off":
        return OFF
    if setting.isascii() and setting.isdecimal() and int(setting) < 2**63:
        return int(setting)
    raise ImportError(f"{VARIABLE}: expected 'off' or a limit in bytes, got {setting!r}")


_pool = MemoryPool()
_memory.pool_set_limit(initial_limit(os.environ.get(VARIABLE)))

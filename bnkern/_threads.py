"""How many threads the CPU kernels use: the least of affinity, container quota and OpenMP's variables.

The number is worked out once, at first use, and handed to every parallel region: OpenMP's own global state is
neither read nor changed, so other libraries in the process keep theirs. (libgomp would end the process on an
OMP_NUM_THREADS beyond its own limits, and knows nothing of containers.)
"""

from __future__ import annotations

import operator
import os
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from bnkern import _threadpoolctl
from bnkern._native import plan as _plan
from bnkern._words import describe

MOST = 512  # a cap for what is asked for, far above what pays

_process = 0  # the process's number; 0: not looked at yet
_said: int | None = None  # by set_num_threads

# What holds in this context (a Python thread, an asyncio task) alone, the last entry first: blocks of `threads`, and
# limits of threadpoolctl. Never changed in place, so contexts that share it do not see each other.
_here: ContextVar[tuple[threads | _Limit, ...]] = ContextVar("bnkern.threads", default=())
_entries = _here.get
_ever = False  # whether any context held anything yet: every call of the library asks, and this is the cheaper question


def set_num_threads(n: int) -> None:
    """Set how many threads the CPU kernels use, in the whole process.

    Results do not depend on it, to the bit. Calls too small to repay a parallel region use one thread anyway.
    Inside a block of `threads` the block's number holds.

    Parameters
    ----------
    n : int
        1 to 512; more than there are processors is allowed and slow.

    Raises
    ------
    TypeError
        If `n` is not an integer (True and 2.0 are not).
    ValueError
        If `n` is outside 1 to 512.
    """
    global _process, _said
    _process = _said = _checked(n)
    _plan.set_default_threads(_process)
    if _entries():
        _here.set(_without_limits(_entries()))  # the later word counts, as with BLAS and OpenMP


def get_num_threads() -> int:
    """Return how many threads the CPU kernels use, in this Python thread or asyncio task.

    Until a block of `threads`, `set_num_threads` or threadpoolctl's `threadpool_limits` says otherwise: the least of
    the processors this process may run on, the CPU quota of its cgroup (rounded up), OMP_NUM_THREADS and
    OMP_THREAD_LIMIT.

    Returns
    -------
    int
        At least 1.
    """
    if _ever and (entries := _entries()):
        return entries[-1].n
    return _process or _look()


class threads:
    """Context manager: the CPU kernels use `n` threads inside the block.

    The block is this context's own (`contextvars`): Python threads and asyncio tasks with blocks of their own do not
    see it. A thread that is started inside the block does not either, before Python 3.14; for all threads of a process
    there is `set_num_threads`. May be nested, entered again, and shared between threads.

    Parameters
    ----------
    n : int
        As for `set_num_threads`, with the same errors, raised at once.

    Examples
    --------
    >>> with bnkern.threads(1):
    ...     y = bnkern.batch_norm_inference(x, running_mean=mean, running_var=var)
    """

    def __init__(self, n: int) -> None:
        self.n = _checked(n)

    def __enter__(self) -> threads:
        _enter(self)
        return self

    def __exit__(self, *error: object) -> None:
        """Takes its own entry away, not the last: blocks need not end in the order in which they began."""
        entries = _entries()
        for at in reversed(range(len(entries))):
            if entries[at] is self:
                _here.set(entries[:at] + entries[at + 1 :])
                return


def _enter(entry: threads | _Limit) -> None:
    global _ever
    _ever = True
    _here.set((*_entries(), entry))


def why() -> list[tuple[str, int | None]]:
    """What the number of threads follows from, as (source, value); None where a source sets no limit."""
    entries = _entries()
    found = [*limits(), ("set_num_threads", _said)]
    if entries:
        found.append(("threadpoolctl" if isinstance(entries[-1], _Limit) else "threads", entries[-1].n))
    return found


def _look() -> int:
    global _process
    _process = min(n for _, n in limits() if n is not None)
    _plan.set_default_threads(_process)
    return _process


# --- threadpoolctl --------------------------------------------------------------------------------


class _Limit(NamedTuple):
    """A number that threadpoolctl set."""

    n: int


def _without_limits(entries: tuple[threads | _Limit, ...]) -> tuple[threads | _Limit, ...]:
    """The entries up to the last block."""
    while entries and isinstance(entries[-1], _Limit):
        entries = entries[:-1]
    return entries


def limit(n: int) -> None:
    """What threadpoolctl calls when `threadpool_limits` begins, and with the number from before when it ends.

    In this context alone, as OpenMP's own number is. Where that is the number without any limit, none is left behind.
    Numbers out of range are brought into it: an error here would leave other libraries half limited.
    """
    n = min(max(n, 1), MOST)
    _here.set(_without_limits(_entries()))
    if n != get_num_threads():
        _enter(_Limit(n))


def _checked(n: int) -> int:
    try:
        if isinstance(n, bool):
            raise TypeError
        number = operator.index(n)
    except Exception as error:  # whatever an object of the user's raises
        raise TypeError(f"n: expected an integer, 1 to {MOST}, got {describe(n)}") from (
            None if isinstance(error, TypeError) else error
        )
    if not 1 <= number <= MOST:
        raise ValueError(f"n: expected 1 to {MOST} threads, got {number}")
    return number


# --- the four limits ------------------------------------------------------------------------------


def limits() -> list[tuple[str, int | None]]:
    """The limits from outside, read afresh."""
    return [
        ("processor affinity", _affinity()),
        ("cgroup quota", cgroup_quota()),
        ("OMP_NUM_THREADS", _variable("OMP_NUM_THREADS")),
        ("OMP_THREAD_LIMIT", _variable("OMP_THREAD_LIMIT")),
    ]


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST)
    return min(os.cpu_count() or 1, MOST)


def _variable(name: str) -> int | None:
    """A positive number from the environment, capped; of a list the first. Anything else sets no limit."""
    try:
        n = int(os.environ.get(name, "").partition(",")[0])
    except ValueError:
        return None
    return min(n, MOST) if n > 0 else None


def cgroup_quota(
    membership: str | Path = "/proc/self/cgroup", root: str | Path = "/sys/fs/cgroup"
) -> int | None:
    """Processors that the process's cgroup, or any above it, may keep busy: quota by period, rounded up.

    Parameters
    ----------
    membership : path
        The file that names the cgroups of the process, a line "id:controllers:path" for each hierarchy.
    root : path
        Where the hierarchies are mounted: version 2 there or in `unified`, version 1 in a folder per
        controller.
    """
    found = []
    for line in _text(Path(membership)).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            mounts, read = [Path(root), Path(root, "unified")], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, read = [Path(root, controllers), Path(root, "cpu")], _quota_v1
        else:
            continue
        # Inside a container the path may be the host's: what does not exist is skipped on the way up.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            found += [read(Path(mount, *parts[:depth])) for depth in range(len(parts) + 1)]
    known = [n for n in found if n is not None]
    return min(known) if known else None


def _quota_v2(group: Path) -> int | None:
    return _processors(*[*_text(group / "cpu.max").split(), "", ""][:2])


def _quota_v1(group: Path) -> int | None:
    return _processors(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _processors(quota: str, period: str) -> int | None:
    """Whole processors; None for "max", -1 and what cannot be read."""
    try:
        q, p = int(quota), int(period)
    except ValueError:
        return None
    return min(max(-(-q // p), 1), MOST) if q > 0 and p > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""


_threadpoolctl.announce(get_num_threads, limit)

"""What tests/parts/test_mpi.py runs on every rank: `mpiexec -n N python -m mpi4py mpi_program.py WHAT FOLDER`."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from bnkern import distributed
from bnkern.distributed import RankError
from helpers.ranks import problem

COMM = MPI.COMM_WORLD
ROWS = {1: [24], 2: [24, 0], 3: [2, 16, 6], 4: [0, 4, 12, 8]}  # unequal, none too; multiples of the part size


def whole(folder):
    """Forward and backward, twice as many calls as there are layouts, into FOLDER/RANK.npz."""
    rows = ROWS[COMM.size]
    mine = slice(sum(rows[: COMM.rank]), sum(rows[: COMM.rank + 1]))
    x, dy, residual, weight = problem()
    x, dy, residual = x[mine], dy[mine], residual[mine]
    found = {}
    for size in (None, 2):
        how = {"weight": weight, "comm": COMM, "part_size": size}
        running = {"running_mean": np.zeros(5), "running_var": np.ones(5)}
        y, stats = distributed.batch_norm_train(x, residual=residual, activation="relu", **running, **how)
        needs = ("x", "weight", "bias", "residual")
        grads = distributed.batch_norm_backward(dy, x, stats, y=y, activation="relu", needs=needs, **how)
        found |= {f"{size} {name}": a for name, a in (stats._asdict() | running | grads._asdict() | {"y": y}).items()}
    np.savez(Path(folder) / f"{COMM.rank}.npz", **found)


def invalid(folder):
    """The last rank's weight is too long: all raise, and all can go on."""
    weight = np.ones(6 if COMM.rank == COMM.size - 1 else 5)
    x = problem()[0]
    try:
        distributed.batch_norm_train(x, weight=weight, comm=COMM)
    except (ValueError, RankError) as error:
        (Path(folder) / f"{COMM.rank}.txt").write_text(f"{type(error).__name__}: {error}")
    distributed.batch_norm_train(x, comm=COMM)


def killed(folder):
    """Rank 1 dies without a word; the others wait for it in the gather."""
    if COMM.rank == 1:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.batch_norm_train(problem()[0], comm=COMM)


def raises(folder):
    """Rank 1 has an error outside bnkern; `-m mpi4py` ends all."""
    if COMM.rank == 1:
        raise RuntimeError("something else")
    distributed.batch_norm_train(problem()[0], comm=COMM)


if __name__ == "__main__":
    {"whole": whole, "invalid": invalid, "killed": killed, "raises": raises}[sys.argv[1]](sys.argv[2])

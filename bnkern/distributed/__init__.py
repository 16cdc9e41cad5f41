"""Batch normalisation over processes: each rank has rows of the batch, the statistics are those of all rows.

    from mpi4py import MPI
    from bnkern.distributed import batch_norm_backward, batch_norm_train

    y, stats = batch_norm_train(x, comm=MPI.COMM_WORLD, weight=weight, bias=bias)  # x: this rank's rows, or none

What crosses between ranks is one message of each in each direction of a layer: (count, mean, variance) forward, two
sums backward. Run with `mpiexec -n 4 python -m mpi4py program.py`: under `-m mpi4py` an error that ends one rank ends
all of them.
"""

from bnkern.distributed._api import batch_norm_backward, batch_norm_train
from bnkern.distributed._exchange import RankError

__all__ = ["RankError", "batch_norm_backward", "batch_norm_train"]

"""Normalise a data set that is larger than the memory of all workers together, on a cluster of Dask's.

    pip install 'bnkern[dask]' && python examples/dask_cluster.py

Two workers of 300 MB each; the data set is four times what both have. The first pass takes the statistics and forgets
the chunks, the second one makes them again, normalises them, and hands them on: here to sums that check them; to store
them there are `dask.array.to_zarr` and `to_npy_stack`. A bar shows each step; then comes the most memory that each
worker had.
"""

from __future__ import annotations

import argparse
import resource
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, progress

import bnkern

SHAPE = (64, 32, 32, 32)  # of a chunk: 8 MB in float32


def load(block_info: Any = None) -> np.ndarray:
    """A chunk, as a file would give it: the same whenever it is asked for."""
    chunk = block_info[None]["chunk-location"][0]
    values = np.random.default_rng(chunk).standard_normal((64, 32, 32), dtype=np.float32)
    return np.repeat(values[:, None], SHAPE[1], axis=1) + np.arange(32, dtype=np.float32)[:, None, None]


def dataset(megabytes: float) -> Any:
    """A lazy array of so many megabytes."""
    chunks = max(1, round(megabytes * 1e6 / (4 * np.prod(SHAPE))))
    return da.map_blocks(load, chunks=((SHAPE[0],) * chunks, *SHAPE[1:]), dtype="f4", meta=np.empty((0,) * 4, "f4"))


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def one_thread() -> None:
    """Dask's workers stand beside each other: one thread of bnkern's for each of theirs."""
    bnkern.set_num_threads(1)


def normalise(client: Client, x: Any, bars: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance per channel of the normalised data set, which is nowhere held."""
    total = bnkern.StatsAccumulator()
    total.add(x)  # lazy: a graph
    population = client.persist(list(total.result()[:2]))  # (C,) numbers are all that stays
    if bars:
        progress(population[0])
    with dask.config.set({"bnkern.reload": True}):
        y, _ = bnkern.batch_norm_train(x)  # both passes in one graph
    checked = client.persist(list(bnkern.batch_stats(y)[:2]))
    if bars:
        progress(checked[0])
    found, mean, var = dask.compute(population[0], *checked)
    print(f"population means {np.round(found[:3], 3)} ..., of the normalised data {np.abs(mean).max():.1e} at most,")
    print(f"variances {var.min():.6f} to {var.max():.6f}")
    return mean, var


def main() -> None:
    parser = argparse.ArgumentParser(description="A data set larger than the workers' memory, normalised.")
    parser.add_argument("--memory", type=float, default=300, help="MB that each worker has (default: 300)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=float, default=4, help="size of the data set over all workers' memory")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()

    x = dataset(given.memory * given.workers * given.times)
    print(f"{x.nbytes / 1e6:.0f} MB in {x.npartitions} chunks, {given.workers} workers of {given.memory:.0f} MB")
    cluster = LocalCluster(
        n_workers=given.workers, threads_per_worker=1, memory_limit=f"{given.memory}MB", dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        client.run(one_thread)
        before = client.run(peak)
        normalise(client, x, not given.quiet)
        for worker, most in client.run(peak).items():
            print(f"{worker}: {most:.0f} MB at its peak, {most - before[worker]:.0f} MB more than at the start")


if __name__ == "__main__":
    main()

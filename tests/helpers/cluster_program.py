"""What tests/parts/test_cluster.py runs: two Dask workers in processes of their own. Prints what it found as JSON."""

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import bnkern

MEMORY, CHUNK = 160, (64, 32, 32, 32)  # MB of each worker; a chunk has 8 MB
LARGE = round(4 * 2 * MEMORY * 1e6 / (4 * np.prod(CHUNK)))  # chunks of four times the memory of both


def load(folder=None, deadly=(), block_info=None):
    """Chunk k is a ramp about k. Leaves a file each time; a deadly time ends the worker instead, once."""
    k = block_info[None]["chunk-location"][0]
    times = len(list(Path(folder).glob(f"{k}-*")))
    Path(folder, f"{k}-{times}").touch()
    if (k, times) in deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    x = np.empty(CHUNK, np.float32)
    x[:] = np.linspace(-1, 1, CHUNK[0], dtype=np.float32)[:, None, None, None] + np.float32(k % 7)
    return x


def dataset(chunks, folder, deadly=()):
    meta = np.empty((0,) * 4, np.float32)
    return da.map_blocks(load, folder, deadly, chunks=((CHUNK[0],) * chunks, *CHUNK[1:]), dtype="f4", meta=meta)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def normalised(chunks, folder, deadly=()):
    """Forward in two passes: (statistics of x, those of y). Each number of chunks has loads of its own."""
    x = dataset(chunks, folder, deadly)
    with dask.config.set({"bnkern.reload": True}):
        y, stats = bnkern.batch_norm_train(x)
    return [a.tolist() for a in dask.compute(*stats[:2], *bnkern.batch_stats(y)[:2])]


def of_file(k):
    total = bnkern.StatsAccumulator()
    total.add(np.linspace(k, k + 1, 12, dtype=np.float32).reshape(4, 3))
    return total


def large(client, folder):
    found = normalised(LARGE, folder)
    return {"numbers": found, "peaks": list(client.run(peak).values()), "loads": len(os.listdir(folder))}


def killed(client, folder):
    """One worker dies in the first pass, one in the second."""
    before = set(client.run(os.getpid).values())
    found = normalised(12, folder, ((5, 0), (7, 1)))
    client.wait_for_workers(2)
    return {"numbers": found, "workers lost": len(before - set(client.run(os.getpid).values()))}


def pickled(client, folder):
    """Accumulators from both workers, merged here; and inference with what they found."""
    total = sum(client.gather(client.map(of_file, range(20))))
    mean, var, count = total.result()
    x = dataset(3, folder)
    y = bnkern.batch_norm_inference(x, running_mean=da.zeros(32), running_var=da.ones(32), eps=0)
    return {"mean": mean.tolist(), "var": var.tolist(), "count": count, "same": bool((y == x).all().compute())}


def main():
    with tempfile.TemporaryDirectory() as scratch:
        dask.config.set({"temporary-directory": scratch, "distributed.worker.memory.terminate": 0.98})
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=f"{MEMORY}MB", dashboard_address=None)
        with cluster, Client(cluster) as client:
            client.run(bnkern.set_num_threads, 1)
            found = {}
            for part in (large, killed, pickled):
                folder = Path(scratch, part.__name__)
                folder.mkdir()
                found[part.__name__] = part(client, str(folder))
    print(json.dumps(found), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()

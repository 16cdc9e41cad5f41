"""bnkern.distributed over ranks: bytes and times measured here, the all-gather modelled on more ranks than there are.

    python benchmarks/ranks.py [--picture docs/scaling.png]

starts itself under mpiexec with 1 to 4 ranks, one thread each, and prints the tables of docs/scaling.md as Markdown.
`--rank` is what each rank runs. The model and where it comes from: docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import bnkern
from bnkern import distributed
from bnkern.distributed._exchange import Part, merged
from bnkern.distributed._mpi import gather_of

CHANNELS = (64, 256, 1024)
ROWS = 64  # of 28 x 28, shared out among the ranks
RANKS = 2 ** np.arange(3, 13)
NETWORKS = {"InfiniBand": (2e-6, 1 / 12e9), "Ethernet, 10 Gbit/s": (25e-6, 1 / 1.2e9)}  # latency (s), s per byte
HEAD = 130  # bytes of a message beside the numbers: its head, the call in words, the count


# --- measured -------------------------------------------------------------------------------------


def median(function, repeats):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def on_rank():
    """Rank 0 prints the bytes of a message and the seconds of a gather, a forward and a backward call."""
    from mpi4py import MPI

    comm, found = MPI.COMM_WORLD, {}
    for channels in CHANNELS:
        x = np.random.default_rng(comm.rank).standard_normal((ROWS // comm.size, channels, 28, 28), dtype=np.float32)
        out, plain, sent = np.empty_like(x), gather_of(comm), []

        def counting(message, plain=plain, sent=sent):
            sent.append(len(message))
            return plain(message)

        _, stats = distributed.batch_norm_train(x, comm=counting)
        distributed.batch_norm_train(x[:1], comm=counting)
        distributed.batch_norm_backward(x, x, stats, comm=counting)
        message = bytes(sent[0])
        comm.Barrier()
        found[channels] = {
            "bytes": sent,
            "gather": median(lambda m=message, g=plain: g(m), 200),
            "forward": median(lambda x=x, o=out: distributed.batch_norm_train(x, comm=comm, out=o), 7),
            "backward": median(
                lambda x=x, s=stats, o=out: distributed.batch_norm_backward(x, x, s, comm=comm, out=o), 7
            ),
        }
    if comm.rank == 0:
        print(json.dumps(found))


def measured():
    """{ranks: {channels: what `on_rank` found}}"""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    found = {}
    for n in (1, 2, 3, 4):
        command = [shutil.which("mpiexec", path=path), "-n", str(n), sys.executable, "-m", "mpi4py", __file__, "--rank"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
        found[n] = {int(key): value for key, value in json.loads(done.stdout).items()}
    return found


def merge_cost(channels=256):
    """Seconds that merging costs for each part of this many channels."""
    rng = np.random.default_rng(0)
    parts = [Part(100, *rng.standard_normal((2, channels))) for _ in range(1024)]
    return median(lambda: merged(parts), 9) / len(parts)


# --- modelled -------------------------------------------------------------------------------------


def message_bytes(channels):
    return HEAD + 16 * channels


def ring(ranks, size, latency, per_byte):
    """Each rank hands on what it got: ranks - 1 steps of one message."""
    return (ranks - 1) * (latency + size * per_byte)


def doubling(ranks, size, latency, per_byte):
    """Partners at distance 1, 2, 4 ... exchange all that they have: log2(ranks) steps, the same bytes."""
    return math.log2(ranks) * latency + (ranks - 1) * size * per_byte


def tree(ranks, size, latency, per_byte, merging):
    """What is exchanged is merged at each step: log2(ranks) messages, and as many merges of two."""
    return math.log2(ranks) * (latency + size * per_byte + 2 * merging)


def modelled(channels, merging):
    """{network: {way: seconds for each of RANKS}}, the merge of all parts on every rank included."""
    size, found = message_bytes(channels), {}
    for network, speed in NETWORKS.items():
        head = np.array([doubling(int(n), 8, *speed) for n in RANKS])  # the lengths go first
        found[network] = {
            "ring": head + [ring(int(n), size, *speed) + n * merging for n in RANKS],
            "recursive doubling": head + [doubling(int(n), size, *speed) + n * merging for n in RANKS],
            "tree of merges": head + [tree(int(n), size, *speed, merging) for n in RANKS],
        }
    return found


# --- shown ----------------------------------------------------------------------------------------


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def picture(path, model, channels):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(model), figsize=(10, 4), sharey=True, layout="constrained")
    for ax, (network, ways) in zip(axes, model.items(), strict=True):
        for (way, seconds), style in zip(ways.items(), ("o-", "s-", "^--"), strict=True):
            ax.loglog(RANKS, 1e3 * seconds, style, label=way, markersize=4)
        ax.set(title=f"{network}", xlabel="ranks", xticks=RANKS[::3], xticklabels=RANKS[::3])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(f"ms for one layer's statistics, {channels} channels (model)")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description="bnkern.distributed over ranks.")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--picture", type=Path, help="draw the model here")
    given = parser.parse_args()
    if given.rank:
        on_rank()
        return
    found, merging = measured(), merge_cost()
    print(f"bnkern {bnkern.__version__}, {os.cpu_count()} processors")
    print(f"merging: {1e6 * merging:.2f} us a part of 256 channels\n")
    rows = [[c, *found[1][c]["bytes"], 16 * c] for c in CHANNELS]
    heads = ["channels", f"bytes forward, {ROWS} rows", "bytes forward, 1 row", "bytes backward", "16 C"]
    print(table(heads, rows), "\n")
    rows = [
        [c, n, *(f"{1e3 * found[n][c][what]:.2f}" for what in ("gather", "forward", "backward"))]
        for c in CHANNELS for n in found
    ]  # fmt: skip
    print(table(["channels", "ranks", "gather ms", "forward ms", "backward ms"], rows), "\n")
    model = modelled(256, merging)
    rows = [
        [network, way, *(f"{1e3 * s:.2f}" for s in seconds[::3])]
        for network, ways in model.items() for way, seconds in ways.items()
    ]  # fmt: skip
    print(table(["network", "way", *(f"{n} ranks, ms" for n in RANKS[::3])], rows))
    if given.picture:
        picture(given.picture, model, 256)


if __name__ == "__main__":
    main()

"""How many instructions a channel of a wide matrix costs: `python benchmarks/counts.py` (minutes; needs valgrind).

Counted by callgrind, so the same to a few on every run, on a machine that is busy too. A channel of (128, 8192) costs
its values and what is done once for it: coefficients, running statistics, casts. Two matrices of as many channels, one
of 128 rows and one of 256, tell them apart. One thread; x86_v3, which valgrind knows (it has no AVX-512), unless
--level says otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from figures import table

CHANNELS, ROWS = 8192, (128, 256)
OPS = ("inference", "train", "backward")
CALLS = (2, 4)  # of two processes: what these have more is two calls

# What is counted, in a process of its own: after the import, so many calls.
WORK = """
import sys
import bnkern
from bnkern.cli.measure import kernel, make_case
op, rows, channels, calls = sys.argv[1], *map(int, sys.argv[2:])
bnkern.set_num_threads(1)
call = kernel(make_case((rows, channels), "channels last"), op)
for _ in range(calls):
    call()
"""


def instructions(op: str, rows: int, calls: int, level: str) -> int:
    """Of a whole process that makes so many calls."""
    with tempfile.TemporaryDirectory(prefix="bnkern-counts-") as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-P", "-c", WORK, op, str(rows), str(CHANNELS), str(calls)]
        # Hashes decide how Python's dictionaries are walked: the same in all processes.
        there = os.environ | {"BNKERN_CPU": level, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=there, cwd=folder, capture_output=True, text=True)
        found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
        if done.returncode or not found:
            raise SystemExit(f"counts: {done.stderr[-2000:]}")
        return int(found[1])


def of_one_call(op: str, rows: int, level: str) -> float:
    few, many = (instructions(op, rows, calls, level) for calls in CALLS)
    return (many - few) / (CALLS[1] - CALLS[0])


def lines(level: str) -> Iterator[tuple[str, ...]]:
    for op in OPS:
        short, long = (of_one_call(op, rows, level) / CHANNELS for rows in ROWS)
        a_value = (long - short) / (ROWS[1] - ROWS[0])
        yield op, f"{short:.0f}", f"{a_value:.2f}", f"{short - ROWS[0] * a_value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--level", default="x86_v3", help="BNKERN_CPU (default: %(default)s)")
    level = parser.parse_args().level
    if shutil.which("valgrind") is None:
        raise SystemExit("counts: valgrind is not installed")
    print(f"Instructions of one call on {ROWS[0]},{CHANNELS}, float32, one thread, {level}:\n")
    header = ("operation", f"a channel of {ROWS[0]} values", "of it each value", "and once a channel")
    print(table(header, lines(level)))


if __name__ == "__main__":
    main()

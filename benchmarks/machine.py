"""The machine that figures are from: what it is, and its state at this minute. `python benchmarks/machine.py`"""

from __future__ import annotations

import ctypes
import datetime
import os
import platform
import shutil
import subprocess
import tempfile
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onednn

import bnkern
from bnkern._native import cpu, kernels
from bnkern.cli.bench import processor
from bnkern.cli.measure import settle

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "torch", "jax", "onnxruntime", "ml_dtypes")


def facts(rivals: list[str]) -> dict[str, Any]:
    """What does not change while figures are taken."""
    packages = {name: found for name in PACKAGES if (found := installed(name))}
    packages |= {build: onednn.version(build) for build in onednn.BUILDS if build in rivals}
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()}",
        "threads": bnkern.get_num_threads(),
        "isa": kernels.level(),
        "bnkern": bnkern.__version__,
        "commit": commit(),
        "compiler": bnkern.show_config("dicts")["build"]["compiler"],  # type: ignore[index]
        "python": platform.python_version(),
        "packages": packages,
    }


def state() -> dict[str, Any]:
    """What does: taken before and after. GB/s count bytes read and written, of arrays of 64 MB."""
    settle()
    x, out = np.ones(1 << 24, np.float32), np.zeros(1 << 24, np.float32)
    found: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "one way ns": core_to_core()}
    for threads in {1, bnkern.get_num_threads()}:
        seconds = _median(lambda n=threads: cpu.limit(x, None, out, threads=n))  # type: ignore[misc]
        found[f"copy GB/s, threads: {threads}"] = round(2 * x.nbytes / seconds / 1e9, 1)
    return found


def core_to_core() -> float | None:
    """Nanoseconds from one core to another; None without a compiler or a second core."""
    probe = _pingpong()
    if probe is None or len(os.sched_getaffinity(0)) < 2:
        return None
    return round(1e9 * median(probe() for _ in range(5)), 1)


@cache
def _pingpong() -> Any:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="bnkern-pingpong-") as folder:
        target = Path(folder) / "pingpong.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", str(HERE / "pingpong.c"), "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True)
        probe = ctypes.CDLL(str(target)).pingpong
    probe.restype = ctypes.c_double
    return probe


def _median(call: Any, times: int = 9) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def caches() -> dict[str, int]:
    """Bytes of each data cache of the first core, as the system (or what it runs in) tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found


def commit() -> str | None:
    """The commit of this checkout, with a + where files differ from it; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7"]
        return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(state())

"""Fresh Python processes, what the processor can do, and the conditions under which a test is skipped."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OPENMP_VARIABLES = ("OMP_", "GOMP_", "KMP_")


def run_python(code, *args, cwd, env=None, timeout=120, check=True):
    """Run `code` in a fresh Python that finds the installed bnkern and the modules of tests/.

    No variable of OpenMP is handed down; `env` adds some, and None removes one. Fails with the child's own
    words.
    """
    child = {key: value for key, value in os.environ.items() if not key.startswith(OPENMP_VARIABLES)}
    paths = [entry for entry in child.get("PYTHONPATH", "").split(os.pathsep) if entry]
    child["PYTHONPATH"] = os.pathsep.join(
        [str(TESTS), *(p for p in paths if Path(p).resolve() != TESTS.parent)]
    )
    for key, value in (env or {}).items():
        child.pop(key, None)
        if value is not None:
            child[key] = value
    command = [sys.executable, "-X", "faulthandler", "-c", code, *map(str, args)]
    try:
        done = subprocess.run(command, env=child, cwd=cwd, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"the child hung for {timeout} s; it had said: {hung.stdout!r}") from None
    if check and done.returncode != 0:
        raise AssertionError(
            f"the child ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
    return done


# What Linux calls the features of each x86-64 level, beyond those of the level below.
LEVEL_FLAGS = {
    "x86_v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86_v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
    "x86_v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def processor_levels():
    """The levels of this processor as the operating system tells them, lowest first."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return []
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).partition(":")[2].split())
    found = []
    for level, needed in LEVEL_FLAGS.items():
        if not needed <= flags:
            break
        found.append(level)
    return found


SANITISED = "asan" in os.environ.get("LD_PRELOAD", "")
skip_sanitised = pytest.mark.skipif(SANITISED, reason="AddressSanitizer reserves the address space itself")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="uses interfaces of Linux")
x86_only = pytest.mark.skipif(not processor_levels(), reason="the levels are those of x86-64")

"""Kernels as CUDA sources compiled by g++ against emulation.h, and launched on the CPU.

`Library(text, options)` is what `cupy.RawModule` is on a GPU: the same text, the same options.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HEADER = Path(__file__).with_name("emulation.h")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")

LAUNCH = """
extern "C" void bn_launch_{0}(const void *args, unsigned grid, unsigned block, size_t bytes, int order)
{{
    emulation::launch([](const void *a) {{ {0}(*(const Args *)a); }}, args, grid, block, bytes, order);
}}
"""


def compiler():
    return shutil.which("g++")


@cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="bnkern-emulation-")  # goes with the process


@cache
def _build(text, options, sanitised):
    """The shared library of one source and one set of options; built once in a process, or once in BNKERN_EMULATION."""
    macros = [option for option in options if option.startswith("-D")]
    if "-ftz=true" in options:
        macros.append("-DEMULATION_FTZ")
    dtype = next((m.partition("=")[2] for m in macros if m.startswith("-DBN_DTYPE=")), "")
    names = re.findall(r"^BN_ENTRY\((\w+),", text, re.M)
    kernels = [f"bn_{name}_{layout}_{dtype}" for name in names for layout in ("cf", "cl")]
    kernels += re.findall(r'^extern "C" __global__ void __launch_bounds__\(\w+\) (\w+)\(', text, re.M)
    whole = f'#include "{HEADER}"\n{text}\n' + "".join(map(LAUNCH.format, kernels))
    key = hashlib.sha256(repr((whole, HEADER.read_text(), options, sanitised)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("BNKERN_EMULATION") or _folder().name)
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / f"{key}.cpp", folder / f"{key}.so"
    if not library.exists():
        source.write_text(whole)
        fresh = folder / f"{key}.{os.getpid()}.so"
        flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
        if sanitised:
            flags += SANITIZE
        elif "fma" in Path("/proc/cpuinfo").read_text().split():
            flags += ["-mfma"]  # fma() in hardware: the same results, faster
        done = subprocess.run([compiler(), *flags, *macros, source, "-o", fresh], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:6000]
        fresh.rename(library)
    return library


class Library:
    """The kernels of one source, by name."""

    def __init__(self, text, options=()):
        path = _build(text, tuple(options), bool(os.environ.get("BNKERN_EMULATION_SANITISED")))
        self._library = ctypes.CDLL(str(path))

    def launch(self, name, grid, block, shared, args, order=0):
        """Run a kernel to its end; `args` are the bytes of its one argument."""
        kernel = getattr(self._library, f"bn_launch_{name}")
        kernel.argtypes = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int)
        kernel(ctypes.c_char_p(args), grid, block, shared, order)

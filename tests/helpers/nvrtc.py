"""NVRTC and ptxas from NVIDIA's pip packages, which compile without a GPU and without its driver.

Looked for in the `nvidia` packages of this environment (nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvcc-cu12 and kin);
`library` and `assembler` are None where they are missing.
"""

import ctypes
import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

CUPYS_OWN = ("-ftz=true",)  # options that CuPy adds to everybody's (cupy/cuda/compiler.py)


class Resources(NamedTuple):
    """What ptxas says of a kernel."""

    registers: int
    spilled: int  # bytes stored and loaded because registers ran out
    stack: int  # bytes


def _find(pattern):
    packages = importlib.util.find_spec("nvidia")
    roots = packages.submodule_search_locations if packages else ()
    found = sorted(path for root in roots for path in Path(root).glob(f"*/{pattern}"))
    return found[0] if found else None


@cache
def library():
    path = _find("lib/libnvrtc.so.*[0-9]")
    return None if path is None else ctypes.CDLL(str(path))


@cache
def assembler():
    return _find("bin/ptxas")


def architectures():
    """Numbers of the architectures that this NVRTC knows: 70 for sm_70."""
    nvrtc, n = library(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(n)))
    found = (ctypes.c_int * n.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(found))
    return list(found)


def compile(text, options, arch, *, binary=True):
    """The cubin for sm_`arch`, or the PTX for compute_`arch`. An error has the compiler's words."""
    nvrtc, program = library(), ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"bnkern.cu", 0, None, None))
    try:
        words = [f"--gpu-architecture={'sm' if binary else 'compute'}_{arch}", *options]
        status = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*map(str.encode, words)))
        log = _get(nvrtc, program, "ProgramLog").decode()
        assert status == 0, f"sm_{arch} {options}:\n{log}"
        assert not re.search("warning(?!: Architectures prior)", log), log
        return _get(nvrtc, program, "CUBIN" if binary else "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def resources(ptx, arch, folder):
    """{kernel: Resources} of PTX assembled for sm_`arch`."""
    path = folder / f"{arch}.ptx"
    path.write_bytes(ptx.rstrip(b"\0"))
    command = [assembler(), "-v", f"-arch=sm_{arch}", path, "-o", folder / f"{arch}.cubin"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = {}
    for entry in told.split("Compiling entry function '")[1:]:
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", entry)))
        stack = int(re.search(r"(\d+) bytes stack frame", entry)[1])
        found[entry.partition("'")[0]] = Resources(int(re.search(r"Used (\d+) registers", entry)[1]), spilled, stack)
    return found


def _get(nvrtc, program, what):
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, text))
    return text.raw[: size.value] if what == "CUBIN" else text.raw[:-1]


def _check(nvrtc, status):
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    assert status == 0, nvrtc.nvrtcGetErrorString(status)

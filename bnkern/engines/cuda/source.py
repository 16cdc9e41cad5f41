"""The text of the GPU kernels: src/cuda/, and what it shares with the CPU, installed in the package; each file is put
in place of its #include.

One text without includes is what NVRTC compiles anywhere and what CuPy's cache of compiled kernels is keyed by.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from bnkern._dtypes import ITEMSIZE
from bnkern.engines.cuda.plan import shared_bytes

# No contraction but where the source says fma: the forward z must come out again in the backward pass.
# CuPy adds -ftz=true of its own accord: a float32 below 2^-126 is 0 on a GPU, as operand and as result. So differences
# below that count as none, and `cast` to float32 has no subnormals. The tests compile and emulate with it.
OPTIONS = ("-std=c++17", "--fmad=false")


@cache
def source(name: str) -> str:
    """The whole text of `name`.cu."""
    return "".join(_lines(f"{name}.cu", set()))


def _lines(file: str, seen: set[str]) -> list[str]:
    if file in seen:
        return []
    seen.add(file)
    lines: list[str] = []
    for line in files("bnkern").joinpath("cuda", file).read_text().splitlines(keepends=True):
        if line.startswith('#include "'):
            lines += _lines(line.split('"')[1], seen)
        else:
            lines.append(line)
    return lines


def options(dtype: str | None) -> tuple[str, ...]:
    """Compiler options for the kernels of one storage type; None: those that are for all."""
    if dtype is None:
        return OPTIONS
    shared = [f"-DBN_SHARED_{layout.upper()}={shared_bytes(layout, ITEMSIZE[dtype])}" for layout in ("cf", "cl")]
    return (*OPTIONS, f"-DBN_DTYPE={dtype}", *shared)

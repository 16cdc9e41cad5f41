"""oneDNN as a rival: its C API, driven by a little C (onednn.c) that is compiled when it is needed.

The library and its headers come from the packages onednn-cpu-gomp and onednn-devel-cpu-gomp. Each layer is
run in three layouts, whatever the case's own: oneDNN may choose the best.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from bnkern import get_num_threads
from bnkern.cli.measure import EPS, Call, Case

HERE = Path(__file__).resolve().parent
LAYOUTS = ("cf", "cl", "blocked")  # as onednn.c counts them
OPS = ("inference", "train", "backward", "frozen")
OF_MATRIX = 1  # (N, C) has one layout, and in bnkern's terms it is channels last
BITS = {"float32": 32, "bfloat16": 16}


def missing() -> str | None:
    """Why oneDNN cannot be run here; None if it can."""
    try:
        library()
    except (OSError, PackageNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        return f"onednn: {said} (needs a C compiler, onednn-cpu-gomp and onednn-devel-cpu-gomp)"
    return None


@cache
def library() -> ctypes.CDLL:
    """onednn.c, compiled against the installed library."""
    lib = _installed("onednn-cpu-gomp", "libdnnl.so.3").parent
    include = _installed("onednn-devel-cpu-gomp", "oneapi/dnnl/dnnl.h").parents[2]
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise OSError("no C compiler")
    folder = tempfile.TemporaryDirectory(prefix="bnkern-onednn-")
    target = Path(folder.name) / "onednn.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-fopenmp", f"-I{include}", str(HERE / "onednn.c")]
    command += ["-o", str(target), f"-L{lib}", "-l:libdnnl.so.3", f"-Wl,-rpath,{lib}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    loaded = ctypes.CDLL(str(target))
    folder.cleanup()
    loaded.bench_bytes.restype = ctypes.c_int64
    loaded.bench_make.restype = ctypes.c_void_p
    return loaded


def _installed(package: str, name: str) -> Path:
    for file in files(package) or ():
        if file.as_posix().endswith(name):
            return Path(str(file.locate())).resolve()
    raise OSError(f"{package} has no {name}")


def calls(case: Case, op: str) -> dict[str, Call]:
    """ "onednn cf", "onednn cl" and "onednn blocked", as far as oneDNN does this op, dtype and rank."""
    made = {f"onednn {name}": make(case, op, layout) for layout, name in enumerate(LAYOUTS)}
    return {name: call for name, call in made.items() if call is not None}


def make(case: Case, op: str, layout: int) -> Primitive | None:
    if op not in OPS or case.x.dtype.name not in BITS or not 2 <= case.x.ndim <= 5:
        return None
    if case.x.ndim == 2 and layout != OF_MATRIX:
        return None
    primitive = Primitive(case, op, layout)
    return primitive if primitive.handle else None


class Primitive:
    """One of oneDNN's calls with the memory that it runs on."""

    def __init__(self, case: Case, op: str, layout: int) -> None:
        self.lib, self.layout, self.own = library(), layout, LAYOUTS.index("cf" if case.axis == 1 else "cl")
        shape = np.moveaxis(case.x, case.axis, 1).shape
        self.bits, self.dims = BITS[case.x.dtype.name], (ctypes.c_int64 * len(shape))(*shape)
        self.ndims, self.case = len(shape), case
        self.x, self.dy, self.out = (self.arranged(a) for a in (case.x, case.dy, case.out))
        given = (case.mean, case.var, case.weight, case.bias, case.weight, case.bias)  # the last two: results
        self.vectors = [np.array(v, np.float32) for v in given]
        made = self.lib.bench_make(
            OPS.index(op), self.bits, layout, self.ndims, self.dims, ctypes.c_float(EPS), get_num_threads(),
            *map(_pointer, (self.x, self.dy, self.out, *self.vectors)),
        )  # fmt: skip
        self.handle = ctypes.c_void_p(made)

    def arranged(self, a: np.ndarray) -> np.ndarray:
        """`a` in this layout: itself where it has it, as NumPy memory in any case."""
        if self.layout == self.own:
            return a
        size = self.lib.bench_bytes(self.bits, self.layout, self.ndims, self.dims)
        to = np.zeros(size // a.itemsize, a.dtype)
        self.reorder(self.own, a, self.layout, to)
        return to

    def reorder(self, layout: int, a: np.ndarray, to_layout: int, to: np.ndarray) -> None:
        if self.lib.bench_reorder(self.bits, self.ndims, self.dims, layout, _pointer(a), to_layout, _pointer(to)):
            raise RuntimeError("oneDNN did not reorder")

    def __call__(self) -> None:
        if self.lib.bench_run(self.handle):
            raise RuntimeError("oneDNN did not run")

    def result(self) -> np.ndarray:
        """y or dx in the case's own layout."""
        if self.layout == self.own:
            return self.out
        to = np.empty_like(self.case.out)
        self.reorder(self.layout, self.out, self.own, to)
        return to

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.lib.bench_free(self.handle)


def _pointer(a: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)

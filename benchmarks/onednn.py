"""oneDNN as a rival: its C API, driven by a little C (onednn.c) that is compiled when it is needed.

Two builds are known, and whichever are installed take part, the faster one counting where a table says "oneDNN":

    onednn       packages onednn and onednn-devel: oneDNN of today, on oneTBB, called through a SYCL queue
    onednn-gomp  packages onednn-cpu-gomp and onednn-devel-cpu-gomp: oneDNN 3.2, on OpenMP, the last with that runtime

Each layer is run in three layouts, whatever the case's own: oneDNN may choose the best.
"""

from __future__ import annotations

import ctypes
import os
import re
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
BUILDS = {"onednn": ("onednn", "onednn-devel"), "onednn-gomp": ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")}
# What libdnnl.so of the first needs, in this order; nothing tells the loader where pip has put them.
RUNTIMES = ("libintlc.so.5", "libimf.so", "libsvml.so", "libtbb.so.12", "libsycl.so.9")
LAYOUTS = ("cf", "cl", "blocked")  # as onednn.c counts them
OPS = ("inference", "train", "backward", "frozen")
OF_MATRIX = 1  # (N, C) has one layout, and in bnkern's terms it is channels last
TYPES = ("float32", "bfloat16", "float16", "float64")  # as onednn.c counts them; it refuses what oneDNN has no call for
FAILED = {
    1: "cannot be opened",
    2: "lacks a function of oneDNN 3",
    3: "has neither OpenMP nor oneTBB",
    4: "finds no processor: SYCL needs the packages dpcpp-cpp-rt and intel-opencl-rt",
}


def missing(build: str) -> str | None:
    """Why this build cannot be run here; None if it can."""
    try:
        library(build)
    except (OSError, PackageNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        return f"{build}: {said} (needs a C compiler and {' and '.join(BUILDS[build])})"
    return None


def version(build: str) -> str:
    """Of the library itself: packages count otherwise."""
    major, minor = divmod(library(build).bench_version(), 100)
    return f"{major}.{minor}"


@cache
def library(build: str) -> ctypes.CDLL:
    """onednn.c, compiled against this build's headers, with its library opened."""
    package, headers = BUILDS[build]
    # The packages overwrite each other's libdnnl.so.3; the full version stands in one file name alone.
    path = _installed(package, r"/libdnnl\.so\.3\.\d+$")
    include = _installed(headers, r"/oneapi/dnnl/dnnl\.h$").parents[2]
    if build == "onednn":
        _load_runtimes(path.parent)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise OSError("no C compiler")
    with tempfile.TemporaryDirectory(prefix="bnkern-onednn-") as folder:
        target = Path(folder) / f"{build}.so"
        command = [compiler, "-O2", "-shared", "-fPIC", f"-I{include}", str(HERE / "onednn.c"), "-ldl"]
        command += ["-o", str(target)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(str(target))
    failed = loaded.bench_start(str(path).encode(), get_num_threads())
    if failed:
        raise OSError(f"{path} {FAILED[failed]}")
    loaded.bench_bytes.restype = ctypes.c_int64
    loaded.bench_make.restype = ctypes.c_void_p
    return loaded


def _installed(package: str, pattern: str) -> Path:
    for file in files(package) or ():
        if re.search(pattern, "/" + file.as_posix()):
            return Path(str(file.locate())).resolve()
    raise OSError(f"{package} has no {pattern}")


def _load_runtimes(folder: Path) -> None:
    for name in RUNTIMES:
        ctypes.CDLL(str(folder / name))
    # SYCL's only way to a CPU is OpenCL, whose loader looks where the system keeps its drivers.
    driver = folder / "libintelocl.so"
    if driver.exists():
        os.environ.setdefault("OCL_ICD_FILENAMES", str(driver))


def calls(build: str, case: Case, op: str) -> dict[str, Call]:
    """ "onednn cf", "onednn cl" and "onednn blocked", as far as oneDNN does this op, dtype and rank."""
    made = {f"{build} {name}": make(build, case, op, layout) for layout, name in enumerate(LAYOUTS)}
    return {name: call for name, call in made.items() if call is not None}


def make(build: str, case: Case, op: str, layout: int) -> Primitive | None:
    if op not in OPS or case.x.dtype.name not in TYPES or not 2 <= case.x.ndim <= 5:
        return None
    if case.x.ndim == 2 and layout != OF_MATRIX:
        return None
    primitive = Primitive(library(build), case, op, layout)
    return primitive if primitive.handle else None


class Primitive:
    """One of oneDNN's calls with the memory that it runs on."""

    def __init__(self, lib: ctypes.CDLL, case: Case, op: str, layout: int) -> None:
        self.lib, self.layout, self.own = lib, layout, LAYOUTS.index("cf" if case.axis == 1 else "cl")
        shape = np.moveaxis(case.x, case.axis, 1).shape
        self.type, self.dims = TYPES.index(case.x.dtype.name), (ctypes.c_int64 * len(shape))(*shape)
        self.ndims, self.case = len(shape), case
        self.handle = None
        if not lib.bench_has(OPS.index(op), self.type, layout, self.ndims, self.dims, ctypes.c_float(EPS)):
            return
        self.size = lib.bench_bytes(self.type, layout, self.ndims, self.dims)
        self.x, self.dy, self.out = self.arranged()
        given = (case.mean, case.var, case.weight, case.bias, case.weight, case.bias)  # the last two: results
        self.vectors = [np.array(v, np.float32) for v in given]
        made = lib.bench_make(
            OPS.index(op), self.type, layout, self.ndims, self.dims, ctypes.c_float(EPS),
            *map(_pointer, (self.x, self.dy, self.out, *self.vectors)),
        )  # fmt: skip
        self.handle = ctypes.c_void_p(made) if made else None

    def arranged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, dy and the output in this layout: the case's own where it has it, else copies that its calls share."""
        case = self.case
        if self.layout == self.own:
            return case.x, case.dy, case.out
        if _copies.case is not case:
            _copies.case, _copies.arrays = case, {}
        key = (self.layout, self.size)
        if key not in _copies.arrays:
            x, dy, out = (np.zeros(self.size // case.x.itemsize, case.x.dtype) for _ in range(3))
            self.reorder(self.own, case.x, self.layout, x)
            self.reorder(self.own, case.dy, self.layout, dy)
            _copies.arrays[key] = (x, dy, out)
        return _copies.arrays[key]

    def reorder(self, layout: int, a: np.ndarray, to_layout: int, to: np.ndarray) -> None:
        if self.lib.bench_reorder(self.type, self.ndims, self.dims, layout, _pointer(a), to_layout, _pointer(to)):
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


class _Copies:
    """The arrays of the latest case in other layouts: making them takes longer than measuring."""

    case: Case | None = None
    arrays: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


_copies = _Copies()


def _pointer(a: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)

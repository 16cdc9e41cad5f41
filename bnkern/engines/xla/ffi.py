"""The path without Python: a handler of XLA's foreign function interface that calls the kernels (handler.cc).

It is compiled at first use, where a C++ compiler is, into a folder of the user's that later processes find it in: a
file whose name is a hash of everything that it was made of, and a hash of its contents. A process that builds it writes
another file and renames it, so any number of processes may do so at once. What has not the contents of its name is not
loaded (a full disk may have cut it off, and the loader ends the process on such a file), but built again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bnkern._call import INPUT_GRAD, NORMALISE, REDUCE, STATS
from bnkern.engines.xla.passes import KINDS, NAMES, Spec

TARGET = "bnkern_jax_call"
HERE = Path(__file__).parent
FOLDER = "BNKERN_CACHE_DIR"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fvisibility=hidden", "-w")
HEADERS = ("xla/ffi/api/c_api.h", "xla/ffi/api/api.h", "xla/ffi/api/ffi.h")
_CODES = {name: code for code, name in enumerate(NAMES)}


def call(spec: Spec, shapes: list[Any], arrays: tuple[Any, ...]) -> list[Any]:
    integers = [spec.kind, spec.passes, spec.axis, spec.ndim, spec.activation, spec.count]
    integers += [spec.frozen, spec.dresidual, spec.share]
    return jax.ffi.ffi_call(TARGET, shapes, vmap_method="expand_dims")(
        *arrays,
        operands=np.array([_CODES[name] for name in spec.operands], np.int32),
        results=np.array([_CODES[name] for name, _ in spec.results], np.int32),
        integers=np.array(integers, np.int64),
        reals=np.array([spec.eps, spec.parameter, spec.momentum, spec.correction], np.float64),
    )


@cache
def missing() -> str | None:
    """Why there is no handler in this process; None where it is loaded and registered. Builds it if need be."""
    try:
        library = ctypes.CDLL(str(_built()))
        capsule = import_module("bnkern._c_api")._C_API_1  # it stands above the engines, as every compiled caller does
        library.bnkern_jax_set(ctypes.c_void_p(_pointer(capsule)))
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.bnkern_jax_call), platform="cpu")
    except (AttributeError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return None


def _pointer(capsule: Any) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return get(capsule, b"bnkern._C_API_1")


def _built() -> Path:
    """The shared object: of an earlier process, or compiled now."""
    source, include = _source(), [Path(jax.ffi.include_dir()), Path(__file__).parents[2] / "include", HERE]
    headers = [*(include[0] / name for name in HEADERS), include[1] / "bnkern.h", HERE / "buffers.h"]
    made_of = [source, *(header.read_text() for header in headers), *FLAGS, platform.machine(), *platform.libc_ver()]
    name = f"bnkern-jax-{_digest(chr(0).join(made_of).encode())}"
    folder = _folder()
    there = filter(_is_whole, sorted(folder.glob(f"{name}-*.so")))
    return next(there, None) or _compile(source, include, folder, name)


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()[:20]


def _is_whole(path: Path) -> bool:
    try:
        return path.stem.endswith(f"-{_digest(path.read_bytes())}")
    except OSError:
        return False


def _source() -> str:
    """The handler behind the numbers that it has in common with Python."""
    passes = {"STATS": STATS, "REDUCE": REDUCE, "NORMALISE": NORMALISE, "INPUT_GRAD": INPUT_GRAD}
    numbers = passes | KINDS | {name.upper(): code for name, code in _CODES.items()} | {"NAMES": len(NAMES)}
    entries = ", ".join(f"{name} = {number}" for name, number in numbers.items())
    return f"enum {{ {entries} }};\n{(HERE / 'handler.cc').read_text()}"


def _compile(source: str, include: list[Path], kept_in: Path, name: str) -> Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), "")
    if not compiler:
        raise RuntimeError("no C++ compiler: g++, c++ or clang++ on the path, or CXX in the environment")
    with tempfile.TemporaryDirectory(dir=kept_in) as folder:
        made, text = Path(folder, "handler.so"), Path(folder, "handler.cc")
        text.write_text(source)
        command = [*compiler.split(), *FLAGS, *(f"-I{at}" for at in include), str(text), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{compiler} ended with {done.returncode}: {done.stderr.strip()[:400]}")
        path = kept_in / f"{name}-{_digest(made.read_bytes())}.so"
        os.replace(made, path)
        return path


def _folder() -> Path:
    """Where handlers are kept: a folder that no one else can write to, for what lies there is loaded."""
    said = os.environ.get(FOLDER)
    base = Path(said) if said else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bnkern")
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = base.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        expected = "a folder of this user's that no other may write to"
        raise RuntimeError(f"{base}: expected {expected}, got mode {state.st_mode & 0o777:o}; {FOLDER} names another")
    return base

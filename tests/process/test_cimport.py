"""Other Cython code reaches the driver: the .pxd files and headers are installed, and what they declare works."""

import shutil
import subprocess
import sys
import sysconfig
from importlib import resources

import pytest

CODE = """
# cython: language_level=3
from libc.stdint cimport int64_t
from libc.string cimport memset
from bnkern._native.capi cimport BN_F64, BN_NOPERAND, BN_OPERAND_X, BN_STATS
from bnkern._native.driver cimport drive
from bnkern._native.job cimport Job
from bnkern._native.kernels cimport kernels_of
from bnkern._native.plan cimport prepare


def stats_of(double[:, ::1] x, int threads):
    \"\"\"Mean and variance of each column, without NumPy.\"\"\"
    cdef Job job
    cdef int64_t sizes[2]
    cdef int64_t steps[2]
    cdef const int64_t *strides[BN_NOPERAND]
    cdef double mean[8]
    cdef double var[8]
    memset(&job, 0, sizeof(job))
    memset(strides, 0, sizeof(strides))
    sizes[0], sizes[1], steps[0], steps[1] = x.shape[0], x.shape[1], x.strides[0], x.strides[1]
    job.kernels = kernels_of(BN_F64)
    job.passes = BN_STATS
    job.operands[BN_OPERAND_X].data = <char *> &x[0, 0]
    strides[BN_OPERAND_X] = steps
    job.mean, job.var = mean, var
    if not prepare(&job, 2, sizes, 1, strides, threads):
        raise ValueError("no layout")
    drive(&job)
    return [mean[c] for c in range(x.shape[1])], [var[c] for c in range(x.shape[1])]
"""


def copied(folder, target):
    """The installed folder as files, wherever an editable install keeps them."""
    target.mkdir()
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            copied(entry, target / entry.name)
        elif entry.name.endswith((".pxd", ".h", "__init__.py")):
            (target / entry.name).write_bytes(entry.read_bytes())


def test_a_module_that_cimports_the_driver(python, tmp_path):
    pytest.importorskip("Cython")
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    (tmp_path / "bnkern").mkdir()
    (tmp_path / "bnkern" / "__init__.py").touch()
    native = tmp_path / "bnkern" / "_native"
    copied(resources.files("bnkern._native"), native)
    (tmp_path / "columns.pyx").write_text(CODE)
    cython = [sys.executable, "-P", "-m", "cython", "-3", "-I", str(tmp_path), "columns.pyx"]
    subprocess.run(cython, cwd=tmp_path, check=True, capture_output=True, text=True)
    includes = [f"-I{native / 'include'}", f"-I{sysconfig.get_path('include')}"]
    build = [compiler, "-shared", "-fPIC", "-O1", *includes, "columns.c", "-o", "columns.so"]
    done = subprocess.run(build, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "bnkern")  # the installed package is meant
    python(f"""
import importlib.machinery, importlib.util, sys
import numpy as np, bnkern
loader = importlib.machinery.ExtensionFileLoader("columns", {str(tmp_path / "columns.so")!r})
columns = importlib.util.module_from_spec(importlib.util.spec_from_loader("columns", loader))
loader.exec_module(columns)
x = np.random.default_rng(0).standard_normal((40_000, 5))
for threads in (1, 3):
    mean, var = columns.stats_of(x, threads)
    want = bnkern.batch_stats(x)
    assert mean == want.mean.tolist() and var == want.var.tolist()
""")


def test_every_compiled_module_that_others_share_has_a_declaration():
    names = {entry.name for entry in resources.files("bnkern._native").iterdir()}
    assert {"capi.pxd", "job.pxd", "driver.pxd", "kernels.pxd", "reduction.pxd", "elementwise.pxd"} <= names

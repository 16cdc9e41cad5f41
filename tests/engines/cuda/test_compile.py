"""Every kernel of every storage type compiles for the architectures in use, without a spill."""

import subprocess

import pytest
from helpers import emulator, nvrtc

from bnkern._dtypes import ITEMSIZE
from bnkern.engines.cuda.source import options, source

ARCHITECTURES = [70, 80, 90, 100]
KERNELS = [(name, dtype) for name in ("forward", "backward") for dtype in ITEMSIZE] + [("vectors", None)]


@pytest.fixture
def compiler():
    if nvrtc.library() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_without_spills(compiler, tmp_path, record_property, arch, name, dtype):
    """By NVRTC as CuPy does it; where ptxas is there too, it tells what a kernel takes of the chip."""
    if arch not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not know sm_{arch}")
    chosen = (*options(dtype), *nvrtc.CUPYS_OWN)
    expected = {f"bn_{name}_{layout}_{dtype}" for layout in ("cf", "cl")} if dtype else {"bn_ema_update", "bn_cast"}
    if nvrtc.assembler() is None:
        cubin = nvrtc.compile(source(name), chosen, arch)
        assert all(kernel.encode() in cubin for kernel in expected)
        return
    found = nvrtc.resources(nvrtc.compile(source(name), chosen, arch, binary=False), arch, tmp_path)
    assert set(found) == expected
    for kernel, told in found.items():
        record_property(kernel, str(told))
        assert told.registers <= 128, "two blocks on a multiprocessor have 128 registers for each thread"
        assert told.spilled == 0 or arch == 70, (kernel, told)
        assert told.stack == 0 or arch == 70, (kernel, told)


def test_the_cubin_itself(compiler):
    """Without PTX and ptxas in between."""
    assert b"bn_cast" in nvrtc.compile(source("vectors"), options(None), 90)


def test_an_error_is_the_compilers(compiler):
    with pytest.raises(AssertionError, match="identifier"):
        nvrtc.compile("__global__ void f() { nothing(); }", (), 90)


def test_sources_include_nothing():
    """One text, so that CuPy's cache of compiled kernels is keyed by all of it."""
    for name, _ in KERNELS:
        assert "#include" not in source(name)
        assert len(source(name)) > 2000


def test_the_emulation_sees_a_missing_barrier(tmp_path):
    """The instrument itself: what waits for a thread that never comes ends with words."""
    if emulator.compiler() is None:
        pytest.skip("the emulation needs g++")
    program = tmp_path / "left_out.cpp"
    program.write_text(f"""
#include "{emulator.HEADER}"
static void kernel(const void *) {{ if (threadIdx.x != 5) __syncthreads(); }}
int main() {{ emulation::launch(kernel, nullptr, 1, 64, 0, 0); }}
""")
    binary = tmp_path / "left_out"
    subprocess.run([emulator.compiler(), "-w", "-std=c++17", program, "-o", binary], check=True)
    done = subprocess.run([binary], capture_output=True, text=True)
    assert done.returncode != 0
    assert "left out" in done.stderr

"""The programs of docs/c-api.md, and one with many threads, built against the package and run."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from helpers import support
from helpers.support import TESTS, run_python

import bnkern

HEADERS = [f"-I{bnkern.get_include()}", f"-I{sysconfig.get_path('include')}"]
SANITISERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def page(language):
    """The one block of this language in the page."""
    text = (TESTS.parent / "docs" / "c-api.md").read_text()
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return code


def compiler(name="gcc"):
    found = shutil.which(name) or shutil.which({"gcc": "clang", "g++": "clang++"}[name])
    if found is None:
        pytest.skip(f"no {name}")
    return found


def build(folder, source, *flags, output="program", compile_with="gcc"):
    """Compiles a file; the compiler's words where it fails."""
    target = folder / output
    command = [compiler(compile_with), *WARNINGS, "-O1", *HEADERS, source, "-o", str(target), *flags]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def embedding():
    """Linker flags of a program that has Python in it."""
    config = sysconfig.get_config_vars()
    folder, library = config.get("LIBDIR"), f"python{config['LDVERSION']}"
    if not any(Path(folder).glob(f"lib{library}.*")):
        pytest.skip(f"no lib{library} to embed")
    if not config.get("Py_ENABLE_SHARED"):  # extension modules find Python in the program
        return [f"-L{folder}", f"-l{library}", "-Wl,-export-dynamic", *config["LIBS"].split(), "-lm", "-lpthread"]
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", f"-l{library}", "-lm", "-lpthread"]


def execute(program, *arguments):
    """Runs a program with Python in it, which finds what this Python finds."""
    paths = [entry for entry in sys.path if entry and Path(entry).resolve() != TESTS.parent]
    env = os.environ | {
        "PYTHONPATH": ":".join(paths), "PYTHONHOME": sys.base_prefix, "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }  # fmt: skip
    env.pop("LD_PRELOAD", None)
    done = subprocess.run(
        [program, *arguments], cwd=program.parent, env=env, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


def can_sanitise(folder):
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    command = [compiler(), *SANITISERS, "empty.c", "-o", "empty"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True)
    return done.returncode == 0 and subprocess.run([folder / "empty"], check=False).returncode == 0


@pytest.mark.parametrize("flags", [[], SANITISERS], ids=["plain", "sanitised"])
@support.skip_sanitised
def test_the_c_program_of_the_page(tmp_path, flags):
    if flags and not can_sanitise(tmp_path):
        pytest.skip("the compiler has no AddressSanitizer")
    (tmp_path / "program.c").write_text(page("c"))
    said = execute(build(tmp_path, "program.c", "-std=gnu11", *flags, *embedding()))
    x = (np.arange(2400) % 17).astype("f4").reshape(8, 3, 100)
    dy = (np.arange(2400) % 5).astype("f4").reshape(8, 3, 100)
    weight, running = np.array([1, 2, 3], "f4"), {"running_mean": np.zeros(3, "f4"), "running_var": np.ones(3, "f4")}
    y, stats = bnkern.batch_norm_train(x, weight=weight, activation="relu", **running)
    grads = bnkern.batch_norm_backward(dy, x, stats, weight=weight, activation="relu")
    assert said == (
        f"bnkern {bnkern.__version__}: mean {stats.mean[0]:.3f}, running {running['running_mean'][0]:.3f}, "
        f"y {y[0, 0, 16]:.3f}, dx {grads.dx[0, 0, 16]:.5f}, dweight {grads.dweight[0]:.3f}\n"
    )


@pytest.mark.parametrize("flags", [[], SANITISERS], ids=["plain", "sanitised"])
@support.skip_sanitised
def test_many_threads_at_once(tmp_path, flags):
    """Every operation on sixteen threads of the program's own, with Python at work beside them."""
    if flags and not can_sanitise(tmp_path):
        pytest.skip("the compiler has no AddressSanitizer")
    shutil.copy(TESTS / "capi" / "threads.c", tmp_path)
    said = execute(build(tmp_path, "threads.c", "-std=gnu11", *flags, *embedding()))
    assert said.splitlines()[-1] == "16 threads, the same bits"


@support.skip_sanitised
def test_the_checks_under_the_sanitisers(tmp_path):
    """Random calls, with memory and arithmetic watched."""
    if not can_sanitise(tmp_path):
        pytest.skip("the compiler has no AddressSanitizer")
    source = TESTS.parent / "src"
    files = [str(path) for path in sorted((source / "c_api").glob("*.c"))]
    program = build(tmp_path, str(TESTS / "capi" / "fuzz.c"), f"-I{source}", *files, *SANITISERS, "-lm")
    assert execute(program).startswith("accepted")


def test_cpp_and_dlpack(tmp_path):
    """The header is C++, in both orders with dlpack.h (its declarations as DLPack 1.x has them)."""
    (tmp_path / "dlpack.h").write_text(DLPACK)
    for name, includes in {"before": ["dlpack.h", "bnkern.h"], "after": ["bnkern.h", "dlpack.h"]}.items():
        cast = "" if name == "before" else "(const bnkern_tensor *)"
        head = "".join(f'#include "{header}"\n' for header in ["Python.h", *includes])
        (tmp_path / f"{name}.cpp").write_text(head + CPP.replace("CAST", cast))
        build(tmp_path, f"{name}.cpp", "-std=c++11", "-c", output=f"{name}.o", compile_with="g++")


DLPACK = """
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
#include <stddef.h>
#include <stdint.h>
typedef enum : int32_t { kDLCPU = 1, kDLCUDA = 2 } DLDeviceType;
typedef struct { DLDeviceType device_type; int32_t device_id; } DLDevice;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
    void *data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t *shape; int64_t *strides; uint64_t byte_offset;
} DLTensor;
#endif
"""

CPP = """
int stats(const bnkern_api *bn, const DLTensor *x, const DLTensor *mean, const DLTensor *var)
{
    static_assert(sizeof(DLTensor) == sizeof(bnkern_tensor), "one layout");
    static_assert(offsetof(DLTensor, byte_offset) == offsetof(bnkern_tensor, byte_offset), "one layout");
    static_assert(offsetof(DLTensor, dtype) == offsetof(bnkern_tensor, dtype), "one layout");
    bnkern_call call = BNKERN_CALL_INIT;
    call.x = CAST x; call.mean = CAST mean; call.var = CAST var;
    return bn ? bn->stats(&call, nullptr, 0) : bnkern_import() != nullptr;
}
"""


def test_the_cython_extension_of_the_page(tmp_path):
    pytest.importorskip("Cython")
    package = tmp_path / "bnkern"  # as an installation has it, wherever an editable one keeps its files
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(Path(bnkern.__file__).parent / "capi.pxd", package)
    (tmp_path / "layer.pyx").write_text(page("cython"))
    cython = [sys.executable, "-P", "-m", "cython", "-3", "-I", str(tmp_path), "layer.pyx"]
    done = subprocess.run(cython, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(package)  # the installed package is meant
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    flags = ["-Wno-error", "-Wno-extra", "-shared", "-fPIC"]
    build(tmp_path, "layer.c", *flags, output=f"layer{suffix}")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np, bnkern, layer
x = np.random.default_rng(0).standard_normal((8, 5, 4000)).astype("f4")
y = np.empty_like(x)
layer.normalise(x, y)
assert y.tobytes() == bnkern.batch_norm_train(x)[0].tobytes()
try:
    layer.normalise(x[:1, :, :1].copy(), y[:1, :, :1].copy())
except ValueError as error:
    assert str(error).startswith("x: expected more than one value per channel"), error
else:
    raise AssertionError("accepted")
"""
    run_python(code, cwd=tmp_path)


def test_a_package_without_the_capsule(tmp_path):
    """Another ABI has another name: an ImportError that says so, no crash."""
    shutil.copy(TESTS / "capi" / "importer.c", tmp_path)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    build(tmp_path, "importer.c", "-shared", "-fPIC", output=f"importer{suffix}")
    header = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    run_python(header + "import importer; assert importer.version().startswith('0.')", cwd=tmp_path)
    for change in ("del c._C_API_1", "c._C_API_1 = 3"):
        code = f"import bnkern._c_api as c; {change}\ntry: import importer\nexcept ImportError as e: print(type(e), e)"
        told = run_python(header + code, cwd=tmp_path).stdout
        assert told.startswith("<class 'ImportError'> bnkern has no bnkern._C_API_1: it is of another ABI")

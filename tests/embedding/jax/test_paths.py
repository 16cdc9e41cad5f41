"""Which path is taken, how the handler is built, and what is said where it cannot be."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402

import bnkern.jax  # noqa: E402

USE = """
import jax.numpy as jnp, numpy as np, bnkern, bnkern.jax
x = np.arange(24, dtype="f4").reshape(4, 6)
assert np.array_equal(bnkern.jax.batch_norm_train(x).y, bnkern.batch_norm_train(x)[0])
print(*bnkern.jax.chosen_path(), sep="|")
"""


@pytest.mark.parametrize("forced", ["ffi", "callback"])
def test_forced_by_the_environment(python, forced):
    if forced == "ffi" and bnkern.jax.chosen_path().path != "ffi":
        pytest.skip(f"no handler here: {bnkern.jax.chosen_path().why}")
    assert python(USE, env={"BNKERN_JAX": forced}, timeout=300).stdout.strip() == f"{forced}|BNKERN_JAX={forced}"


def test_an_unknown_path(python):
    done = python(USE, env={"BNKERN_JAX": "fast"}, check=False, timeout=300)
    assert "ValueError: BNKERN_JAX: expected one of ffi, callback, array_api, got 'fast'" in done.stderr
    with pytest.raises(ValueError, match="path: expected one of ffi, callback, array_api, got 'fast'"):
        bnkern.jax.use_path("fast")


def test_without_a_compiler(python, tmp_path):
    """The kernels run all the same, and the reason is told."""
    environment = {"BNKERN_CACHE_DIR": str(tmp_path / "empty"), "PATH": str(tmp_path), "CXX": None}
    path, why = python(USE, env=environment, timeout=300).stdout.strip().split("|")
    assert path == "callback"
    assert "no C++ compiler" in why
    done = python(USE, env=environment | {"BNKERN_JAX": "ffi"}, check=False, timeout=300)
    assert "RuntimeError: BNKERN_JAX=ffi: expected a handler that can be built, got" in done.stderr


def test_a_compiler_that_fails(python, tmp_path):
    environment = {"BNKERN_CACHE_DIR": str(tmp_path / "empty"), "CXX": "false"}
    path, why = python(USE, env=environment, timeout=300).stdout.strip().split("|")
    assert (path, "false ended with 1" in why) == ("callback", True)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_that_others_may_write_to(python, tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    path, why = python(USE, env={"BNKERN_CACHE_DIR": str(open_to_all)}, timeout=300).stdout.strip().split("|")
    assert path == "callback"
    assert "no other may write to" in why


def test_processes_that_build_at_once(tmp_path):
    """Each ends with a handler that works, and one file is left; the next process needs no compiler."""
    if bnkern.jax.chosen_path().path != "ffi":
        pytest.skip(f"no handler here: {bnkern.jax.chosen_path().why}")
    import os

    folder = tmp_path / "shared"
    environment = os.environ | {"BNKERN_CACHE_DIR": str(folder)}
    environment.pop("BNKERN_JAX", None)
    command = [sys.executable, "-P", "-c", USE]
    running = [subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=900)[0].decode() for process in running]
    assert [text.partition("|")[0] for text in said] == ["ffi"] * 3
    assert len(list(folder.iterdir())) == 1
    without = environment | {"CXX": "false"}
    done = subprocess.run(command, env=without, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=True)
    assert done.stdout.startswith("ffi|")


def test_a_handler_that_was_cut_off(python, tmp_path):
    """As by a full disk: never loaded, which would end the process, but built again; and told if that cannot be."""
    if bnkern.jax.chosen_path().path != "ffi":
        pytest.skip(f"no handler here: {bnkern.jax.chosen_path().why}")
    environment = {"BNKERN_CACHE_DIR": str(tmp_path / "cut"), "BNKERN_JAX": None}
    assert python(USE, env=environment, timeout=300).stdout.startswith("ffi|")
    (handler,) = (tmp_path / "cut").iterdir()
    whole = handler.read_bytes()
    for contents in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        handler.write_bytes(contents)
        assert python(USE, env=environment | {"CXX": "false"}, timeout=300).stdout.startswith("callback|")
        assert python(USE, env=environment, timeout=300).stdout.startswith("ffi|")
        assert handler.read_bytes() == whole


def test_explain_tells():
    told = []
    jax.jit(lambda x: told.append(bnkern.explain(x)))(jnp.ones((4, 5)))
    assert told[0].engine == ("xla" if bnkern.jax.chosen_path().path != "array_api" else "array_api")
    assert "when the program runs" in str(told[0])


def test_import_alone_loads_no_jax(python):
    python("import sys, bnkern; assert 'jax' not in sys.modules")


def test_the_path_of_a_call_is_that_of_its_forward_pass(path, arrays):
    """A pull, or a function that was traced already, goes on where it began, whatever block it is called in."""
    x, dy = arrays["x"], arrays["dy"]

    def f(x):
        return bnkern.jax.batch_norm_train(x, residual=x, activation="relu").y

    want = jax.vjp(f, x)[1](dy)[0]
    _, pull = jax.vjp(f, x)
    traced = jax.jit(f)
    traced(x)
    with bnkern.jax.use_path("array_api"):
        assert same_bits(np.asarray(pull(dy)[0]), np.asarray(want))
        assert same_bits(np.asarray(jax.vjp(traced, x)[1](dy)[0]), np.asarray(want))
        _, pull = jax.vjp(f, x)
    np.testing.assert_allclose(pull(dy)[0], want, atol=1e-5)

"""Two Dask workers in processes of their own: data larger than their memory, and a worker that dies in the middle.

One run of helpers/cluster_program.py for all of it; starting the workers takes most of the time.
"""

import json

import numpy as np
import pytest
from helpers import support

import bnkern

pytest.importorskip("distributed", reason="distributed is not installed")
pytest.importorskip("dask.array", reason="dask.array is not installed")
pytestmark = support.skip_sanitised


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    program = str(support.TESTS / "helpers" / "cluster_program.py")
    code = f"import runpy; runpy.run_path({program!r}, run_name='__main__')"
    done = support.run_python(code, cwd=tmp_path_factory.mktemp("cluster"), timeout=400)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def program():
    pytest.importorskip("distributed")
    from helpers import cluster_program

    return cluster_program


def truth(program, chunks):
    """Mean and variance of the data set, which is the same in every channel."""
    ramp = np.linspace(-1, 1, program.CHUNK[0], dtype=np.float32).astype(np.float64)
    values = np.concatenate([ramp + k % 7 for k in range(chunks)])
    return values.mean(), values.var()


def check(program, numbers, chunks):
    mean, var = truth(program, chunks)
    np.testing.assert_allclose(numbers[0], mean, rtol=1e-6)
    np.testing.assert_allclose(numbers[1], var, rtol=1e-6)
    np.testing.assert_allclose(numbers[2], 0, atol=1e-6)
    np.testing.assert_allclose(numbers[3], var / (var + 1e-5), rtol=1e-5)


def test_four_times_the_memory_of_all_workers(found, program):
    """Each chunk is made twice, once for each pass, and never more than a few are held."""
    large = found["large"]
    check(program, large["numbers"], program.LARGE)
    assert large["loads"] == 2 * program.LARGE
    assert len(large["peaks"]) == 2
    assert max(large["peaks"]) < program.MEMORY


def test_workers_killed_in_either_pass(found, program):
    check(program, found["killed"]["numbers"], 12)
    assert found["killed"]["workers lost"] >= 1


def test_accumulators_come_back_from_the_workers(found):
    x = np.concatenate([np.linspace(k, k + 1, 12, dtype=np.float32).reshape(4, 3) for k in range(20)])
    want, got = bnkern.batch_stats(x), found["pickled"]
    assert got["count"] == want.count == 80
    np.testing.assert_allclose(got["mean"], want.mean, rtol=1e-6)
    np.testing.assert_allclose(got["var"], want.var, rtol=1e-6)
    assert got["same"]


def test_the_example_runs(tmp_path):
    """examples/dask_cluster.py, on a little data: what it prints is right, and each worker's memory is told."""
    example = str(support.TESTS.parent / "examples" / "dask_cluster.py")
    arguments = ["--memory", "250", "--times", "0.2"]
    code = f"import runpy, sys; sys.argv = {[example, *arguments]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    told = support.run_python(code, cwd=tmp_path, timeout=400).stdout
    assert "in 12 chunks, 2 workers of 250 MB" in told
    assert "100% Completed" in told
    assert "variances 0.999" in told
    assert told.count("MB at its peak") == 2

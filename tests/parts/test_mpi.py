"""bnkern.distributed on mpi4py: one to four ranks are the whole batch; what goes wrong on one ends all, in time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.compare import LD, assert_close, assert_stats_close, grad_scales, same_bits, y_scale
from helpers.ranks import problem
from helpers.support import TESTS, skip_sanitised

import bnkern

pytest.importorskip("mpi4py", reason="mpi4py is not installed")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
pytestmark = [pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed"), skip_sanitised]
PROGRAM = TESTS / "helpers" / "mpi_program.py"


def mpiexec(n, what, folder, timeout=240):
    """The finished run; a hang fails by the time limit, which leaves room for a busy machine."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "PMI", "HYDRA"))}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [MPIEXEC, "-n", str(n), sys.executable, "-m", "mpi4py", str(PROGRAM), what, str(folder)]
    return subprocess.run(command, env=env, cwd=folder, timeout=timeout, capture_output=True, text=True)


def results(n, folder):
    folder.mkdir()
    done = mpiexec(n, "whole", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(n)]


def joined(ranks, name):
    return np.concatenate([rank[name] for rank in ranks])


OF_ALL = ("mean", "var", "running_mean", "running_var", "dweight", "dbias", "count")


def test_one_to_four_ranks_are_the_whole_batch(tmp_path):
    x, dy, residual, weight = problem()
    y, stats = bnkern.batch_norm_train(x, weight=weight, residual=residual, activation="relu")
    grads = bnkern.batch_norm_backward(dy, x, stats, weight=weight, y=y, activation="relu")
    mean, var = (np.asarray(v, LD) for v in stats[:2])
    scales = grad_scales(np.where(y > 0, dy, 0), x, mean, var, weight)
    runs = {n: results(n, tmp_path / str(n)) for n in (1, 2, 3, 4)}
    for n, ranks in runs.items():
        for size in (None, 2):
            for name in OF_ALL:
                assert all(same_bits(rank[f"{size} {name}"], ranks[0][f"{size} {name}"]) for rank in ranks), (n, name)
            got = {name: ranks[0][f"{size} {name}"] for name in OF_ALL}
            assert_stats_close(bnkern.BatchStats(got["mean"], got["var"], int(got["count"])), x, 1)
            got_y = joined(ranks, f"{size} y")
            assert_close(got_y, y, y_scale(x, mean, var, weight, None, residual), "y")
            assert_close(joined(ranks, f"{size} dx"), grads.dx, scales[0], "dx", limit=8)  # two computed ones: twice 4
            assert_close(got["dweight"], grads.dweight, scales[1], "dweight", limit=8)
            assert_close(got["dbias"], grads.dbias, scales[2], "dbias", limit=8)
    for name in ("y", "dx", "dresidual"):  # parts of two samples, in the same order on any number of ranks
        assert all(same_bits(joined(ranks, f"2 {name}"), joined(runs[1], f"2 {name}")) for ranks in runs.values()), name
    for name in OF_ALL:
        assert all(same_bits(ranks[0][f"2 {name}"], runs[1][0][f"2 {name}"]) for ranks in runs.values()), name


def test_wrong_input_on_one_rank_is_an_error_on_all_which_go_on(tmp_path):
    done = mpiexec(3, "invalid", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    cause = "ValueError: weight: expected shape (5,) (the channels of x, shape (24, 5, 7) with axis=1), got shape (6,)"
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(3)]
    assert told == [f"RankError: rank 2: {cause}"] * 2 + [cause]


@pytest.mark.parametrize("what", ["killed", "raises"])
def test_a_rank_that_ends_ends_all(what, tmp_path):
    """What MPICH and `-m mpi4py` do; bnkern adds nothing that could hang."""
    done = mpiexec(2, what, tmp_path)
    assert done.returncode != 0
    words = {"killed": "EXIT CODE: 9", "raises": "RuntimeError: something else"}
    assert words[what] in done.stdout + done.stderr

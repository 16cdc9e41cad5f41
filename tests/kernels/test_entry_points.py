"""The compiled module by itself: no call may crash. fuzz_entry_points.py does the calling."""

from pathlib import Path

import numpy as np
import pytest
from helpers import fuzz_entry_points

from bnkern._native import _cpu


@pytest.mark.parametrize("seed", [0, 1])
def test_no_argument_crashes_an_entry_point(python, seed):
    said = python(Path(fuzz_entry_points.__file__).read_text(), seed, timeout=300).stdout
    counts = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    attacked = [
        name
        for name in ("stats", "train", "inference", "reduce", "input_grad", "backward")
        if hasattr(_cpu, name)
    ]
    assert attacked
    for name in attacked:  # a fuzzer that gets nowhere, or everywhere, tests nothing
        succeeded, raised = map(int, counts[name])
        assert succeeded > 20, f"{name}: {counts[name]}"
        assert raised > 100, f"{name}: {counts[name]}"


def test_levels_are_told():
    assert _cpu.level() in _cpu.levels()
    assert isinstance(_cpu.has_openmp(), bool)


def test_a_written_array_must_be_writeable():
    x, out = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        _cpu.train(x, None, out, None, None, axis=1, eps=1e-5, relu=False, threads=1)
    assert np.all(out == 1)

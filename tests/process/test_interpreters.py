"""Sub-interpreters in the process, even ones that are gone: servers make them, and threads must still start."""

import importlib.util

import pytest
from helpers import support

MODULE = next(
    (m for m in ("_interpreters", "_xxsubinterpreters") if importlib.util.find_spec(m)), None
)
pytestmark = pytest.mark.skipif(MODULE is None, reason="this Python has no module for sub-interpreters")

CODE = """
import importlib, sys
import numpy as np, bnkern
interpreters = importlib.import_module(sys.argv[1])
bnkern.set_num_threads(3)
x = np.random.default_rng(0).standard_normal((8, 32, 40, 40), np.float32)
want = bnkern.batch_stats(x)
one = interpreters.create()
def same():
    found = bnkern.batch_stats(x)
    return (found.mean == want.mean).all() and (found.var == want.var).all()
assert same()
interpreters.destroy(one)
for op in ("train", "backward"):
    assert same()
    y, stats = bnkern.batch_norm_train(x)
    bnkern.batch_norm_backward(y, x, stats)
print("alive")
"""
INTERRUPT = """
import importlib, signal, sys
import numpy as np, bnkern
interpreters = importlib.import_module(sys.argv[1])
interpreters.destroy(interpreters.create())
bnkern.set_num_threads(2)
# Seconds of work on next to no memory.
x = np.lib.stride_tricks.as_strided(np.ones(1000, np.float32), (3_000_000, 3, 1000), (0, 0, 4))
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    bnkern.batch_stats(x)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_threads_after_a_sub_interpreter(python):
    assert "alive" in python(CODE, MODULE).stdout


@support.linux_only
def test_ctrl_c_after_a_sub_interpreter(python):
    assert "interrupted" in python(INTERRUPT, MODULE).stdout

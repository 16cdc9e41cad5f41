"""Beside other threads and other OpenMP runtimes: the same bits, and no more threads than the process has."""

import threading
import time

import numpy as np
import pytest
from helpers.libraries import of_framework

import bnkern

# What a child says of three calls: one that takes all threads, one channels last, one small.
DIGEST = """
import hashlib
import numpy as np, bnkern

def digest(_=None):
    said = hashlib.sha256()
    for shape, axis in (((8, 64, 40, 40), 1), ((8, 40, 40, 64), -1), ((8, 6), 1)):
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        y, stats = bnkern.batch_norm_train(x, axis=axis, activation="relu")
        grads = bnkern.batch_norm_backward(x, x, stats, axis=axis, activation="relu")
        for a in (y, stats.mean, stats.var, grads.dx, grads.dweight, grads.dbias):
            said.update(a.tobytes())
    return said.hexdigest()
"""

# Each library's own threads at work.
WORK = {
    "torch": "torch.nn.functional.batch_norm(torch.ones(64, 64, 32, 32), None, None, training=True)",
    "sklearn": "sklearn.cluster.KMeans(3, n_init=1).fit(np.random.default_rng(0).standard_normal((5000, 8)))",
    "jax": "jax.jit(lambda a: (a @ a).sum())(jax.numpy.ones((700, 700))).block_until_ready()",
}
IMPORTS = {"sklearn": "sklearn.cluster"}


@pytest.fixture(scope="module")
def expected():
    space = {}
    exec(DIGEST, space)
    return space["digest"]()


@pytest.mark.parametrize("order", [
    "bnkern torch", "torch bnkern", "bnkern sklearn", "sklearn bnkern", "bnkern jax", "jax bnkern",
    "sklearn bnkern torch", "torch sklearn bnkern", "bnkern sklearn torch",
])  # fmt: skip
def test_two_runtimes_in_either_order(order, python, expected):
    """Before and after the others were at work, in the main thread and in a pool of six."""
    names = order.split()
    others = [name for name in names if name != "bnkern"]
    for name in others:
        of_framework(name)
    code = "\n".join([
        *(f"import {IMPORTS.get(name, name)}" for name in names), DIGEST, "print(digest())",
        *(WORK[name] for name in others), "print(digest())",
        "from concurrent.futures import ThreadPoolExecutor",
        "with ThreadPoolExecutor(6) as pool:",
        "    for said in pool.map(digest, range(12)): print(said)",
        *(WORK[name] for name in others),
    ])  # fmt: skip
    said = python(code, timeout=600).stdout.split()
    assert said == [expected] * 14


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_workers_of_joblib(backend, python, expected):
    """Threads or processes; the processes are told their part of the processors by OMP_NUM_THREADS, and keep to it."""
    of_framework("joblib")
    code = f"""
import os, sys
sys.path.insert(0, os.getcwd())
open("said.py", "w").write({DIGEST!r} + '''
def told(_):
    return digest(), bnkern.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
import os
''')
os.environ["PYTHONPATH"] = os.getcwd() + os.pathsep + os.environ["PYTHONPATH"]
import joblib, said
calls = [joblib.delayed(said.told)(k) for k in range(6)]
for found, threads, variable in joblib.Parallel(n_jobs=2, backend={backend!r})(calls):
    assert variable is None or threads <= int(variable), (threads, variable)
    print(found)
"""
    assert python(code, timeout=600).stdout.split() == [expected] * 6


def test_workers_of_a_data_loader(python, expected):
    """Forked: one thread each. Spawned workers take what the machine and OMP_NUM_THREADS allow."""
    of_framework("torch")
    code = f"""
import torch
{DIGEST}
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, k):
        x = np.ones((8, 64, 40, 40), np.float32)
        return digest(), bnkern.explain(x).threads
if __name__ == "__main__":
    bnkern.set_num_threads(4)
    digest()  # the runtime's threads are there before the fork
    loader = torch.utils.data.DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for said, threads in loader:
        assert threads == 1, threads
        digest()  # both at once
        print(said)
"""
    assert python(code, timeout=600).stdout.split() == [expected] * 8


def test_calls_side_by_side_share_the_threads():
    """While another call runs, a call takes its part of the process's threads, and all of them when it is alone."""
    x = np.ones((64, 64, 64, 64), np.float32)
    bnkern.set_num_threads(6)
    assert bnkern.explain(x).threads == 6
    stop = threading.Event()

    def work():
        out = np.empty_like(x)
        while not stop.is_set():
            bnkern.batch_norm_train(x, out=out)

    others = [threading.Thread(target=work) for _ in range(2)]
    seen = set()
    try:
        for other in others:
            other.start()
        end = time.monotonic() + 60
        while 2 not in seen and time.monotonic() < end:  # 6 threads, three calls
            seen.add(bnkern.explain(x).threads)
    finally:
        stop.set()
        for other in others:
            other.join()
    assert 2 in seen
    assert seen <= {6, 3, 2}
    assert bnkern.explain(x).threads == 6


def test_a_number_that_was_asked_for_is_the_most():
    """A block of fewer threads keeps them, however many calls there are beside it."""
    x = np.ones((64, 64, 64, 64), np.float32)
    bnkern.set_num_threads(6)
    with bnkern.threads(1):
        assert bnkern.explain(x).threads == 1
    with bnkern.threads(8):  # more than the process has is allowed to a call that is alone
        assert bnkern.explain(x).threads == 8


def test_calls_that_are_interrupted_or_refused_are_not_counted(python):
    """A call that Ctrl-C ends has ended; one that finds no memory never began."""
    code = """
import signal, sys, threading, numpy as np, bnkern
x = np.ones((64, 64, 128, 128), np.float32)
bnkern.set_num_threads(4)
for _ in range(3):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while True:
            bnkern.batch_norm_train(x)
    except KeyboardInterrupt:
        pass
print(bnkern.explain(x).threads)
"""
    assert python(code, timeout=600).stdout == "4\n"

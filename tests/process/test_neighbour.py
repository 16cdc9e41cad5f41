"""A good neighbour (issue 2, point 6): fork, Ctrl-C, other threads, little memory, names in the process.

Each test has a process of its own, and a time limit that is a guard against hanging and nothing else.
"""

import importlib
import pkgutil
import shutil
import subprocess

import pytest
from helpers import support

import bnkern._native

NATIVE = [m.name for m in pkgutil.iter_modules(bnkern._native.__path__)]

pytestmark = support.linux_only

# ---------------------------------------------------------------- fork

FORK = """
import os, sys, bnkern
from helpers import cases
bnkern.set_num_threads(4)
case = cases.make((2, 3, 257, 259), 1)
want = cases.sha(cases.everything(case))  # the parent's threads exist now, and the child will not have them

def child(generations):
    pid = os.fork()
    if pid == 0:
        same = cases.sha(cases.everything(case)) == want
        if generations > 1:
            same = same and child(generations - 1)
        os._exit(0 if same else 3)
    return os.waitpid(pid, 0)[1] == 0

assert child(2), "a child, or its child, got other bits or died"
assert cases.sha(cases.everything(case)) == want
assert child(1), "a second child"
"""
POOL = """
import multiprocessing, bnkern
from helpers import cases

def work(seed):
    return cases.sha(cases.everything(cases.make((2, 3, 257, 259), 1, seed=seed)))

if __name__ == "__main__":
    want = [work(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(4)) == want
"""


def test_fork_after_use_does_not_hang(python):
    python(FORK, env={"PYTHONWARNINGS": "ignore"})


def test_pool_of_forked_workers(python):
    python(POOL, env={"PYTHONWARNINGS": "ignore"})


# ---------------------------------------------------------------- the GIL

GIL = """
import sys, threading, time
import numpy as np, bnkern
bnkern.set_num_threads(1)
sys.setswitchinterval(1000)  # nobody is asked to hand over the GIL: others run only where it is given up
x, y = np.ones((8, 2, 1000, 1000), np.float32), np.empty((8, 2, 1000, 1000), np.float32)
mean, var = np.zeros(2), np.ones(2)
stats = bnkern.BatchStats(mean, var, 8_000_000)
ticks, running = 0, True

def tick():
    global ticks
    while running:
        ticks += 1
        time.sleep(1e-4)

thread = threading.Thread(target=tick)
thread.start()
calls = {
    "inference": lambda: bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, out=y),
    "train": lambda: bnkern.batch_norm_train(x, out=y),
    "stats": lambda: bnkern.batch_stats(x),
    "backward": lambda: bnkern.batch_norm_backward(x, x, stats, out=y),
    "reduce": lambda: bnkern.backward_reduce(x, x, stats),
}
held = []
for name, call in calls.items():
    for attempt in range(20):  # on a busy machine the other thread may find no processor during one call
        before = ticks
        call()
        if ticks > before:
            break
    else:
        held.append(name)
running = False
thread.join()
assert not held, f"no other thread ran during {held}"
"""


def test_gil_is_released(python):
    python(GIL)


# ---------------------------------------------------------------- Ctrl-C

# Calls that would take minutes, on arrays that take no memory: the zero page, read for as long as the call
# lasts, and for the output one block of memory that appears a thousand times in a row. SIGINT comes while
# the kernel runs.
CTRL_C = """
import ctypes, mmap, os, signal, sys
import numpy as np, bnkern
SIZE = 1 << 38

def zeros():
    pages = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    return np.frombuffer(pages, np.float32)

def scratch(block=1 << 28):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    file = os.memfd_create("block")
    os.ftruncate(file, block)
    start = libc.mmap(None, SIZE, 0, 0x22, 2**64 - 1, 0)  # private, anonymous: room without memory
    for at in range(start, start + SIZE, block):
        assert libc.mmap(at, block, 3, 0x11, file, 0) == at  # shared, at this place
    return np.frombuffer((ctypes.c_char * SIZE).from_address(start), np.float32)

shapes = {"one row": (1, 1, -1), "one column": (-1, 1), "columns": (-1, 64)}
shapes |= {"long rows": (16, 2, -1), "rows": (-1, 2, 1 << 20)}
shape = shapes[sys.argv[1]]
x, out = zeros().reshape(shape), scratch().reshape(shape)
c = x.shape[1]
mean, var = np.zeros(c), np.ones(c)
stats = bnkern.BatchStats(mean, var, x.size // c)
small = np.random.default_rng(0).standard_normal((8, 3, 100, 100))
calls = {
    "stats": lambda: bnkern.batch_stats(x),
    "reduce": lambda: bnkern.backward_reduce(x, x, stats),
    "train": lambda: bnkern.batch_norm_train(x, running_mean=mean, running_var=var, out=out),
    "inference": lambda: bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, out=out),
    "backward": lambda: bnkern.batch_norm_backward(x, x, stats, out=out),
    "frozen": lambda: bnkern.batch_norm_backward(x, x, stats, frozen=True, needs=("x",), out=out),
}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring it
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
for threads in (1, 2):
    bnkern.set_num_threads(threads)
    for name, call in calls.items():
        print(name, "with", threads, "threads", flush=True)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            call()
            sys.exit("the call ended")
        except KeyboardInterrupt:
            assert not mean.any() and (var == 1).all(), "running statistics were changed"
        assert np.isfinite(bnkern.batch_norm_train(small)[0]).all(), "the next call works"
"""


@support.skip_sanitised
@pytest.mark.parametrize("shape", ["one row", "one column", "long rows", "rows", "columns"])
def test_ctrl_c_ends_a_long_call(python, shape):
    """Half a second is promised, 20 s for twelve calls is the guard against hanging."""
    python(CTRL_C, shape, timeout=20)


# ---------------------------------------------------------------- memory

# Growing limits on the address space: whichever allocation fails, nothing the user gave has changed.
MEMORY = """
import resource
import numpy as np, bnkern
bnkern.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((64, 700, 7, 7)).astype(np.float32)
bnkern.batch_norm_train(x)
bnkern.batch_norm_train(x[:, ::2, :, ::2])
failed = succeeded = 0
for extra in [0, *(1 << k for k in range(12, 27))]:
    for view in (x, x[:, ::2, :, ::2]):
        for out in (None, np.full(view.shape, 7, np.float32)):
            mean, var = np.zeros(view.shape[1]), np.ones(view.shape[1])
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))
            try:
                bnkern.batch_norm_train(view, running_mean=mean, running_var=var, out=out)
                done = True
            except MemoryError:
                done = False
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if done:
                succeeded += 1
            else:
                failed += 1
                assert not mean.any() and (var == 1).all(), f"{extra}: running statistics changed"
                assert out is None or (out == 7).all(), f"{extra}: out was written"
assert failed and succeeded, (failed, succeeded)
"""


@support.skip_sanitised
def test_memory_error_leaves_everything_as_it_was(python):
    python(MEMORY, env={"BNKERN_POOL": "off"})  # memory that is kept would be enough


# ---------------------------------------------------------------- names in the process


@support.skip_sanitised
@pytest.mark.parametrize("name", NATIVE)
def test_an_extension_exports_its_init_function_alone(name):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    file = importlib.import_module(f"bnkern._native.{name}").__file__
    lines = subprocess.run(["nm", "-D", "--defined-only", file], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in lines.stdout.splitlines()}
    assert exported - {"bnkern_pool_patience"} == {f"PyInit_{name}"}  # by that name threadpoolctl knows the library


def test_the_runtimes_own_settings_are_not_changed(python):
    """omp_set_num_threads would reach every other library in the process; asked through the runtime already
    loaded.
    """
    code = """
import ctypes, sys
import numpy as np, bnkern
from bnkern._native import driver
runtime = ctypes.CDLL(driver.__file__)
if not hasattr(runtime, "omp_get_max_threads"):
    sys.exit("serial build")
before = runtime.omp_get_max_threads()
bnkern.set_num_threads(before + 3)
bnkern.batch_norm_train(np.ones((8, 3, 300, 300)))
with bnkern.threads(1):
    bnkern.batch_norm_train(np.ones((8, 3, 300, 300)))
assert runtime.omp_get_max_threads() == before
"""
    done = python(code, check=False)
    if "serial build" in done.stderr:
        pytest.skip("built without OpenMP")
    assert done.returncode == 0, done.stderr

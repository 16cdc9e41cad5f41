"""The pool of output buffers: CuPy's words, memory given back, limits, threads, fork."""

import ctypes
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import allocator, cases, support
from helpers.compare import same_bits

import bnkern

MB = 1 << 20
LARGE, SMALL = (5, 64, 41, 41), (5, 64, 26, 26)  # 2.1 MB and 0.9 MB in float32


@pytest.fixture
def pool():
    """Empty, without a limit, and as patient as the slowest machine."""
    found = bnkern.get_default_memory_pool()
    before, patience = found.get_limit(), allocator.patience()
    seconds, patience.value = patience.value, 10**6
    gc.collect()
    found.free_all_blocks()
    found.set_limit(0)
    yield found
    patience.value = seconds
    found.free_all_blocks()
    found.set_limit(before)


def infer(shape=LARGE, dtype="float32"):
    x = np.ones(shape, dtype)
    return bnkern.batch_norm_inference(x, running_mean=np.zeros(64), running_var=np.ones(64))


def test_a_result_gives_its_memory_to_the_next(pool):
    used = pool.used_bytes()
    y = infer()
    place = y.ctypes.data
    assert pool.used_bytes() - used >= y.nbytes
    assert pool.free_bytes() == 0
    view = y[1:, 3]
    del y
    assert pool.free_bytes() == 0, "a view keeps the memory alive"
    del view
    assert pool.used_bytes() == used
    assert pool.free_bytes() >= 2 * MB
    assert pool.n_free_blocks() == 1
    assert pool.total_bytes() == used + pool.free_bytes()
    again = infer()
    assert again.ctypes.data == place
    assert pool.n_free_blocks() == 0


def test_results_begin_on_a_page_and_own_their_memory(pool):
    for _ in range(3):
        y = infer()
        assert y.ctypes.data % 4096 == 0
        assert y.flags.owndata
        assert y.base is None
    y.resize((3, 5), refcheck=False)
    assert np.all(np.isfinite(y))
    y.resize(LARGE, refcheck=False)
    assert y[0, 0, 0, 0] == pytest.approx(1 / np.sqrt(1 + 1e-5))


def test_small_results_are_not_kept(pool):
    infer(SMALL)
    infer((2, 64))
    assert pool.free_bytes() == 0


def test_every_result_of_x_size_comes_from_the_pool(pool):
    case = cases.make(LARGE, 1)
    used = pool.used_bytes()
    results = cases.essentials(case)
    assert pool.used_bytes() - used >= sum(results[name].nbytes for name in ("y", "dx", "dresidual"))
    del results
    assert pool.used_bytes() == used


def test_the_limit_is_kept_and_lowering_it_gives_back(pool):
    outputs = [infer() for _ in range(4)]
    one = (pool.used_bytes()) // 4
    pool.set_limit(size=2 * one)
    outputs.clear()
    assert pool.total_bytes() <= pool.get_limit() == 2 * one
    assert pool.n_free_blocks() == 2
    pool.set_limit(size=one)
    assert pool.n_free_blocks() == 1
    y = infer()
    z = infer()  # beyond the limit: given all the same
    assert np.all(z == y)
    pool.free_all_blocks()
    assert pool.free_bytes() == 0


def test_an_array_that_does_not_come_back_is_given_to_the_system_first(pool):
    """The block kept longest goes first."""
    pool.set_limit(8 * MB)
    first, second = infer(), infer((5, 64, 60, 60))
    later = second.ctypes.data
    del first
    del second
    pool.set_limit(5 * MB)
    assert pool.n_free_blocks() == 1
    assert infer((5, 64, 60, 60)).ctypes.data == later


def test_set_limit_takes_a_fraction(pool):
    pool.set_limit(fraction=0)
    assert pool.get_limit() == 1, "0 would be no limit"
    pool.set_limit(fraction=0.25)
    assert 0 < pool.get_limit() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, ValueError),
        ({"size": 1, "fraction": 0.5}, ValueError),
        ({"size": -1}, ValueError),
        ({"size": 1.5}, TypeError),
        ({"size": 2**63}, ValueError),
        ({"fraction": 1.5}, ValueError),
        ({"fraction": float("nan")}, ValueError),
        ({"fraction": "all"}, TypeError),
    ],
)
def test_wrong_limits(pool, args, error):
    with pytest.raises(error, match=r"size|fraction"):
        pool.set_limit(**args)
    assert pool.get_limit() == 0


def test_results_do_not_share_memory_across_threads(pool):
    """Many threads take and give back at once; each sees its own values only."""

    def work(seed):
        x = np.full(LARGE, seed, np.float32)
        for _ in range(20):
            y = bnkern.batch_norm_inference(x, running_mean=np.zeros(64), running_var=np.ones(64), eps=0)
            z = bnkern.batch_norm_inference(y, running_mean=np.zeros(64), running_var=np.ones(64), eps=0)
            assert np.all(z == seed)
        return True

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(1, 7)))
    gc.collect()
    assert pool.used_bytes() == 0 or pool.used_bytes() < 30 * MB


def test_numpys_own_arrays_do_not_come_from_the_pool(pool):
    y = infer()
    used = pool.used_bytes()
    other = np.empty_like(y), y.copy(), y + 1
    assert pool.used_bytes() == used
    assert same_bits(other[1], y)


@support.linux_only
def test_a_forked_child_can_use_it(python):
    """A lock that another thread held at the fork must not stop the child. Threads hold it most of the time here."""
    python(
        "import faulthandler, os, threading\n"
        + DEFAULT
        + """
stop = threading.Event()

def work():
    while not stop.is_set():
        for _ in range(200):
            free(context, malloc(context, 70_000), 0)

workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
for worker in workers:
    worker.start()
for _ in range(150):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(10, exit=True)
        free(context, malloc(context, 70_000), 0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for worker in workers:
    worker.join()
"""
    )


STATE = """
import numpy as np, bnkern
pool = bnkern.get_default_memory_pool()
x = np.ones((5, 64, 41, 41), np.float32)
bnkern.batch_norm_inference(x, running_mean=np.zeros(64), running_var=np.ones(64))
print(pool.is_enabled(), pool.get_limit(), pool.free_bytes())
"""

DEFAULT = """
import bnkern, numpy as np
from helpers import allocator
MB = 1 << 20
pool = bnkern.get_default_memory_pool()
y = bnkern.batch_norm_inference(np.ones((5, 64, 41, 41), "f4"), running_mean=np.zeros(64), running_var=np.ones(64))
context, malloc, calloc, realloc, free = allocator.of(y)
patience = allocator.patience()
assert patience.value == 10
patience.value = 10**6
"""


def test_by_default_twice_the_largest_result_is_kept(python):
    """And never more than 256 MB. Memory that nobody writes to costs nothing, so the blocks may be large."""
    python(
        DEFAULT
        + """
assert pool.get_limit() == 256 * MB
blocks = [malloc(context, n * MB) for n in (10, 10, 8, 4)]
for p in blocks[:2]:
    free(context, p, 0)
assert 20 * MB <= pool.free_bytes() < 22 * MB, pool.free_bytes()
free(context, blocks[2], 0)
assert 18 * MB <= pool.free_bytes() < 20 * MB, "the longest kept makes room"
free(context, blocks[3], 0)
assert pool.n_free_blocks() == 2
huge = [malloc(context, 120 * MB) for _ in range(3)]
for p in huge:
    free(context, p, 0)
assert pool.n_free_blocks() == 2
assert 240 * MB <= pool.free_bytes() <= 256 * MB
larger = malloc(context, 300 * MB)
free(context, larger, 0)
assert pool.n_free_blocks() == 2, "what cannot be kept costs nothing that is"
assert pool.used_bytes() < 4 * MB
"""
    )


def test_what_nobody_asked_for_in_a_while_is_given_back(python):
    """By the next call that takes or gives back memory of the pool, whatever its size."""
    python(
        DEFAULT
        + """
x, mean, var = np.ones((5, 64, 26, 26), np.float32), np.zeros(64), np.ones(64)
for size in (32, 4):
    free(context, malloc(context, size * MB), 0)
assert pool.n_free_blocks() == 2
small = bnkern.batch_norm_inference(x, running_mean=mean, running_var=var)
assert pool.n_free_blocks() == 2
patience.value = -1  # every block has been kept for longer than that
assert pool.n_free_blocks() == 2, "nothing happens by itself"
small = bnkern.batch_norm_inference(x, running_mean=mean, running_var=var)
assert pool.n_free_blocks() == 0 == pool.free_bytes()
patience.value = 10**6
for size in (32, 4):
    free(context, malloc(context, size * MB), 0)
assert pool.n_free_blocks() == 2
patience.value = -1
del small
assert pool.n_free_blocks() == 0
"""
    )


def lazily_freed():
    """Bytes of this process that the system may take when it runs short; None where it does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("LazyFree")), None)


@support.linux_only
def test_the_system_may_take_the_pages_of_what_is_kept(pool):
    if lazily_freed() is None:
        pytest.skip("the system does not say what is lazily freed")
    before = lazily_freed()
    y = infer((20, 64, 82, 82))  # 34 MB
    assert lazily_freed() - before < 2 * MB
    del y
    assert lazily_freed() - before > 24 * MB
    y = infer((20, 64, 82, 82))
    assert lazily_freed() - before < 2 * MB, "written again, they stay"
    assert same_bits(y, np.full_like(y, y.flat[0]))


def test_an_allocation_that_fails_gives_back_what_is_kept_and_tries_again(python):
    python(
        DEFAULT
        + """
import resource
pool.set_limit(0)
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 600 * MB, -1))
free(context, malloc(context, 350 * MB), 0)
assert pool.free_bytes() >= 350 * MB
p = malloc(context, 400 * MB)  # 100 MB more than needed, for what the C library sets apart when memory is refused
assert p, "refused beside memory that is only kept"
assert pool.free_bytes() == 0
used = pool.used_bytes()
assert not malloc(context, 400 * MB)
assert pool.used_bytes() == used, "what was refused is not lent"
"""
    )


def test_a_block_serves_its_own_size_alone(pool):
    """Facts stay true: what is given back is what was lent."""
    used = pool.used_bytes()
    y = infer((5, 64, 82, 82))
    del y
    y = infer()
    assert pool.n_free_blocks() == 1
    assert pool.used_bytes() - used < 2 * y.nbytes
    del y
    assert pool.used_bytes() == used
    assert pool.n_free_blocks() == 2


@pytest.mark.parametrize("size", [100, 70_000, 3 * MB, 9 * MB])
def test_the_functions_of_the_handler(pool, size):
    """As C has them, on memory that others have written to."""
    context, malloc, calloc, realloc, free = allocator.of(infer())
    used = pool.used_bytes()
    for _ in range(2):
        p = malloc(context, size)
        assert p % (4096 if size >= MB else 64) == 0
        ctypes.memset(p, 0x5A, size)
        free(context, p, size)
    p = calloc(context, size // 4, 4)
    assert ctypes.string_at(p, size // 4 * 4).count(0) == size // 4 * 4
    ctypes.memmove(p, bytes(range(100)), 100)
    for other in (3 * size, size, 2 * size, 100):
        p = realloc(context, p, other)
        assert ctypes.string_at(p, 100) == bytes(range(100)), other
    free(context, p, 100)
    p = realloc(context, None, size)
    assert p
    free(context, p, 0)
    free(context, None, 0)
    assert not malloc(context, 2**63)
    assert not calloc(context, 2**40, 2**40)
    assert not realloc(context, None, 2**63)
    assert pool.used_bytes() == used


def test_the_default_is_in_force(python):
    enabled, limit, free = python(STATE, env={"BNKERN_POOL": None}).stdout.split()
    assert (enabled, int(limit)) == ("True", 256 * MB)
    assert int(free) > 2 * MB


def test_the_variable_switches_it_off(python):
    assert python(STATE, env={"BNKERN_POOL": "off"}).stdout.split() == ["False", "0", "0"]
    assert "switched off by BNKERN_POOL" in python(
        "import bnkern; bnkern.show_config()", env={"BNKERN_POOL": "off"}
    ).stdout


def test_the_variable_sets_the_limit(python):
    assert python(STATE, env={"BNKERN_POOL": "1000000"}).stdout.split() == ["True", "1000000", "0"]


@pytest.mark.parametrize("setting", ["no", "-1", "1e9", "10 GB", "9" * 25])
def test_other_settings_are_refused(python, setting):
    done = python("import bnkern", env={"BNKERN_POOL": setting}, check=False)
    assert done.returncode == 1
    assert "BNKERN_POOL: expected 'off' or a limit in bytes" in done.stderr


def test_info_shows_it(pool):
    y = infer()
    facts = bnkern.show_config("dicts")["memory pool"]
    assert facts["used bytes"] >= y.nbytes
    assert facts["limit"] == "none"

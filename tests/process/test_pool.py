"""The pool of output buffers: CuPy's words, memory given back, limits, threads, fork."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import cases, support
from helpers.compare import same_bits

import bnkern

MB = 1 << 20
LARGE, SMALL = (5, 64, 41, 41), (5, 64, 26, 26)  # 2.1 MB and 0.9 MB in float32


@pytest.fixture
def pool():
    """Empty, without a limit."""
    found = bnkern.get_default_memory_pool()
    before = found.get_limit()
    gc.collect()
    found.free_all_blocks()
    found.set_limit(0)
    yield found
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


def test_results_begin_on_a_cache_line_and_own_their_memory(pool):
    for _ in range(3):
        y = infer()
        assert y.ctypes.data % 64 == 0
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
    """A lock that another thread held at the fork must not stop the child."""
    python(
        "import os, numpy as np, bnkern, threading\n"
        "x = np.ones((5, 64, 41, 41), np.float32)\n"
        "call = lambda: bnkern.batch_norm_inference(x, running_mean=np.zeros(64), running_var=np.ones(64))\n"
        "stop = threading.Event()\n"
        "busy = threading.Thread(target=lambda: [call() for _ in iter(lambda: not stop.is_set(), False)])\n"
        "busy.start()\n"
        "for _ in range(20):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        call(); call(); os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "stop.set(); busy.join()\n"
    )


STATE = """
import numpy as np, bnkern
pool = bnkern.get_default_memory_pool()
x = np.ones((5, 64, 41, 41), np.float32)
bnkern.batch_norm_inference(x, running_mean=np.zeros(64), running_var=np.ones(64))
print(pool.is_enabled(), pool.get_limit(), pool.free_bytes())
"""


def test_the_default_limit_is_in_proportion_to_memory(python):
    enabled, limit, free = python(STATE, env={"BNKERN_POOL": None}).stdout.split()
    assert enabled == "True"
    assert 0 < int(limit) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
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

"""How many threads: the setting, the context manager, and the four limits from outside."""

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import bnkern
from bnkern import _threads


def test_set_and_get():
    for n in (1, 2, 7, 512):
        bnkern.set_num_threads(n)
        assert bnkern.get_num_threads() == n


def test_context_manager_restores_even_after_an_error():
    bnkern.set_num_threads(3)
    with bnkern.threads(5):
        assert bnkern.get_num_threads() == 5
        with bnkern.threads(2):
            assert bnkern.get_num_threads() == 2
        assert bnkern.get_num_threads() == 5
    assert bnkern.get_num_threads() == 3
    with pytest.raises(KeyError), bnkern.threads(4):
        raise KeyError
    assert bnkern.get_num_threads() == 3


def test_one_context_entered_twice():
    bnkern.set_num_threads(3)
    five = bnkern.threads(5)
    with five, bnkern.threads(2), five:
        assert bnkern.get_num_threads() == 5
    assert bnkern.get_num_threads() == 3


def test_a_bad_number_is_refused_before_the_block():
    bnkern.set_num_threads(3)
    with pytest.raises(ValueError, match="512"):
        bnkern.threads(0)
    assert bnkern.get_num_threads() == 3


def test_setting_is_seen_by_other_python_threads():
    seen = []
    bnkern.set_num_threads(6)
    worker = threading.Thread(target=lambda: seen.append(bnkern.get_num_threads()))
    worker.start()
    worker.join()
    assert seen == [6]


# ---------------------------------------------------------------- contexts


def in_steps(*bodies):
    """Generators side by side, each in a Python thread of its own; all go from one `yield` to the next together."""
    meeting = threading.Barrier(len(bodies), timeout=60)

    def run(body):
        for _ in body:
            meeting.wait()

    with ThreadPoolExecutor(len(bodies)) as pool:
        for done in [pool.submit(run, body) for body in bodies]:
            done.result()


def block(n, outside, begin, end):
    """A block from step `begin` to step `end` of four."""
    inside = bnkern.threads(n)
    for step in range(4):
        if step == begin:
            inside.__enter__()
        if step == end:
            inside.__exit__()
        assert bnkern.get_num_threads() == (n if begin <= step < end else outside)
        yield


def test_overlapping_blocks_of_two_threads_leave_nothing_behind():
    bnkern.set_num_threads(3)
    in_steps(block(5, 3, begin=0, end=2), block(2, 3, begin=1, end=3))
    assert bnkern.get_num_threads() == 3
    assert _threads.why()[-1] == ("set_num_threads", 3)


def test_one_block_shared_by_two_threads():
    bnkern.set_num_threads(3)
    shared = bnkern.threads(5)

    def enter(late):
        if late:
            yield
        with shared:
            yield
            assert bnkern.get_num_threads() == 5
        assert bnkern.get_num_threads() == 3
        if not late:
            yield

    in_steps(enter(late=False), enter(late=True))
    assert bnkern.get_num_threads() == 3


def test_overlapping_blocks_of_asyncio_tasks_leave_nothing_behind():
    async def main():
        entered, left = asyncio.Event(), asyncio.Event()

        async def first():
            with bnkern.threads(5):
                entered.set()
                await left.wait()
                assert bnkern.get_num_threads() == 5
            assert bnkern.get_num_threads() == 3

        async def second():
            await entered.wait()
            with bnkern.threads(2):
                assert bnkern.get_num_threads() == 2
            assert bnkern.get_num_threads() == 3
            left.set()

        await asyncio.gather(first(), second())
        assert bnkern.get_num_threads() == 3

    bnkern.set_num_threads(3)
    asyncio.run(main())
    assert bnkern.get_num_threads() == 3


def test_blocks_that_end_in_the_order_in_which_they_began():
    bnkern.set_num_threads(3)
    first, second = bnkern.threads(5), bnkern.threads(2)
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert bnkern.get_num_threads() == 2
    second.__exit__()
    assert bnkern.get_num_threads() == 3


def test_setting_the_number_inside_a_block_is_for_outside():
    bnkern.set_num_threads(3)
    with bnkern.threads(5):
        bnkern.set_num_threads(2)
        assert bnkern.get_num_threads() == 5
        assert _threads.why()[-2:] == [("set_num_threads", 2), ("threads", 5)]
    assert bnkern.get_num_threads() == 2


# ---------------------------------------------------------------- threadpoolctl

TOLD = """
def ours():
    (pool,) = [p for p in threadpoolctl.threadpool_info() if p["internal_api"] == "bnkern"]
    return pool

assert "threadpoolctl" in sys.modules
assert ours()["num_threads"] == bnkern.get_num_threads(), ours()
assert ours()["version"] == bnkern.__version__
bnkern.set_num_threads(3)
with threadpoolctl.threadpool_limits(1):
    assert bnkern.get_num_threads() == 1 == ours()["num_threads"]
    with bnkern.threads(4):
        assert bnkern.get_num_threads() == 4
        with threadpoolctl.threadpool_limits(2, user_api="openmp"):
            assert bnkern.get_num_threads() == 2
        assert bnkern.get_num_threads() == 4
    assert bnkern.get_num_threads() == 1
    y = bnkern.batch_stats(np.ones((64, 8, 40, 40), np.float32))
assert bnkern.get_num_threads() == 3
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    assert bnkern.get_num_threads() == 3
assert not bnkern._threads._here.get(), "a limit left something behind"
threadpoolctl.threadpool_limits(10**6)
assert bnkern.get_num_threads() == 512
threadpoolctl.threadpool_limits(1)  # called, not entered: until another word
assert bnkern.get_num_threads() == 1
assert bnkern._threads.why()[-1] == ("threadpoolctl", 1)
bnkern.set_num_threads(2)
assert bnkern.get_num_threads() == 2
assert not any(type(finder).__module__ == "bnkern._threadpoolctl" for finder in sys.meta_path)
"""

IMPORTS = {
    "threadpoolctl first": "import threadpoolctl, bnkern",
    "bnkern first": "import bnkern; assert 'threadpoolctl' not in sys.modules; import threadpoolctl",
    "looked for, then imported": """
import bnkern, importlib.util
spec = importlib.util.find_spec("threadpoolctl")
assert spec.origin and "threadpoolctl" not in sys.modules
import threadpoolctl
assert threadpoolctl.__spec__.loader is threadpoolctl.__loader__
assert "exec_module" not in vars(threadpoolctl.__loader__)
""",
    "through scikit-learn's door": "import bnkern; from threadpoolctl import threadpool_limits; import threadpoolctl",
}


@pytest.mark.parametrize("order", IMPORTS)
def test_threadpoolctl_sees_and_limits_it(python, order):
    pytest.importorskip("threadpoolctl")
    python(f"import sys\nimport numpy as np\n{IMPORTS[order]}\n{TOLD}")


def test_overlapping_limits_of_two_threads_leave_nothing_behind():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def limited(late):
        if late:
            yield
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            yield
            yield
            assert bnkern.get_num_threads() == 1
        assert bnkern.get_num_threads() == 3
        if not late:
            yield

    bnkern.set_num_threads(3)
    in_steps(limited(late=False), limited(late=True))
    assert bnkern.get_num_threads() == 3


def test_without_threadpoolctl_and_with_an_old_one(python):
    """An import that fails stays an ImportError; one that knows no controllers of others is left alone."""
    python("""
import sys, bnkern
sys.path[:] = []
sys.path_importer_cache.clear()
try:
    import threadpoolctl
except ModuleNotFoundError as error:
    assert error.name == "threadpoolctl"
else:
    raise SystemExit("found?")
""")
    python("""
import pathlib, sys, bnkern
pathlib.Path("threadpoolctl.py").write_text("LibController = object")
sys.path.insert(0, "")
import threadpoolctl
assert threadpoolctl.LibController is object
""")


# ---------------------------------------------------------------- the default

CHILD = """
import json
from bnkern import _threads, get_num_threads
print(json.dumps([get_num_threads(), _threads.limits()]))
"""


@pytest.mark.parametrize(
    ("env", "limit"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),  # a number for each level of nesting: the outermost counts
        ({"OMP_NUM_THREADS": " 1 "}, 1),
        ({"OMP_NUM_THREADS": "99999999999"}, None),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "-3"}, None),
        ({"OMP_NUM_THREADS": "abc"}, None),
        ({"OMP_NUM_THREADS": ""}, None),
        ({"OMP_THREAD_LIMIT": "1"}, 1),
        ({"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "5"}, 1),
        ({"OMP_THREAD_LIMIT": "abc"}, None),
    ],
    ids=lambda v: (
        " ".join(f"{k}={x}" for k, x in v.items()) or "unset" if isinstance(v, dict) else f"limit {v}"
    ),
)
def test_openmp_variables(python, env, limit):
    """What sets no limit leaves those of affinity and container."""
    threads, limits = json.loads(python(CHILD, env=env).stdout)
    outside = min(n for name, n in limits if n is not None and not name.startswith("OMP"))
    assert threads == min(outside, limit or outside)
    assert 1 <= outside <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity on this system")
def test_affinity(python):
    assert python(
        f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})\n{CHILD}"
    ).stdout.startswith("[1,")


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


QUOTAS = {
    "v2 two and a half": ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
    "v2 half": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "v2 none": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "v2 in a subgroup": ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n"}, 4),
    "v2 the least of all above": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"},
        2,
    ),
    "v2 path of the host inside a container": ("0::/docker/abc\n", {"cpu.max": "200000 100000\n"}, 2),
    "v2 no file": ("0::/\n", {}, None),
    "v2 nonsense": ("0::/\n", {"cpu.max": "what\n"}, None),
    "v2 empty": ("0::/\n", {"cpu.max": ""}, None),
    "v2 period zero": ("0::/\n", {"cpu.max": "100000 0\n"}, None),
    "v2 beyond every machine": ("0::/\n", {"cpu.max": "99999999999999 1000\n"}, 512),
    "v1": (
        "4:cpu,cpuacct:/\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1 under cpu": (
        "4:cpu:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1 none": ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    "v1 of another controller": (
        "4:memory:/\n",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "hybrid": ("4:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    "no membership": ("", {"cpu.max": "100000 100000\n"}, None),
    "a path that climbs out": ("0::/../../etc\n", {"cpu.max": "200000 100000\n"}, 2),
    "a line of nonsense": ("nonsense\n0::/\n", {"cpu.max": "200000 100000\n"}, 2),
}


@pytest.mark.parametrize(("membership", "files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_cgroup_quota(tmp_path, membership, files, expected):
    write(tmp_path / "root", files)
    (tmp_path / "membership").write_text(membership)
    assert _threads.cgroup_quota(tmp_path / "membership", tmp_path / "root") == expected


def test_cgroup_quota_without_any_such_files(tmp_path):
    assert _threads.cgroup_quota(tmp_path / "none", tmp_path / "nowhere") is None


def test_a_number_that_cannot_even_be_shown():
    class Mute:
        def __repr__(self):
            raise RuntimeError

    class Failing:
        def __index__(self):
            raise RuntimeError

    for odd in (Mute(), Failing()):
        with pytest.raises(TypeError, match="n: expected an integer, 1 to"):
            bnkern.set_num_threads(odd)

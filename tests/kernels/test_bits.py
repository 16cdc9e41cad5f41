"""The same bits, whatever the threads, the memory, the environment: issue 2, point 3.

What the bits may depend on is the logical order of each channel's values, and nothing else.
"""

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import cases

import bnkern

PROBLEMS = [(s, a, d) for s, a in [*cases.SMALL, *cases.LARGE] for d in cases.DTYPES]
THREADS = [2, 3, 7, 64, 7, 3, 2, 1]


def digests(results):
    return {key: cases.sha({key: value}) for key, value in results.items() if value is not None}


def differing(results, reference):
    """Names of the results whose digests differ, for a message that says where to look."""
    found = digests(results)
    return [key for key in reference if found[key] != reference[key]]


@functools.cache
def plain(shape, axis, dtype):
    """The reference: plain arrays, no `out`, one thread."""
    with bnkern.threads(1):
        return digests(cases.everything(cases.make(shape, axis, dtype)))


@pytest.mark.parametrize(("shape", "axis", "dtype"), PROBLEMS, ids=cases.label)
def test_threads_and_repeats(shape, axis, dtype):
    case = cases.make(shape, axis, dtype)
    for n in THREADS:
        with bnkern.threads(n):
            assert differing(cases.everything(case), plain(shape, axis, dtype)) == [], f"{n} threads"


@pytest.mark.parametrize(("shape", "axis", "dtype"), PROBLEMS, ids=cases.label)
def test_with_and_without_out(shape, axis, dtype):
    case = cases.make(shape, axis, dtype)
    assert differing(cases.everything(case, out=cases.of_nan), plain(shape, axis, dtype)) == []


ALIGNED = [((3, 17, 5), 1), ((4, 9, 31), -1), ((2, 3, 7, 7), 1), ((60, 100), -1), ((2, 3, 64, 65), 1)]


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("shape", "axis"), ALIGNED, ids=cases.label)
def test_every_alignment_of_the_data(shape, axis, dtype):
    """Every place of the first element in a cache line, 8, 16 and 32 bytes from its start among them."""
    case = cases.make(shape, axis, dtype)
    for offset in range(0, 64, case.x.itemsize):
        moved = case.map(lambda a, offset=offset: cases.place(a, offset))
        assert differing(cases.everything(moved), plain(shape, axis, dtype)) == [], (
            f"{offset} bytes from a cache line"
        )


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_x_dy_and_out_may_be_aligned_differently(dtype):
    case = cases.make((2, 3, 64, 65), 1, dtype)
    want, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias)
    grads = digests(bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, bias=case.bias)._asdict())
    step = case.x.itemsize
    for k in range(0, 64, step):
        x, dy = cases.place(case.x, k), cases.place(case.dy, (5 * k + step) % 64)
        out = cases.place(case.x, (3 * k + 2 * step) % 64)
        y, _ = bnkern.batch_norm_train(x, weight=case.weight, bias=case.bias, out=out)
        assert y.tobytes() == want.tobytes()
        got = bnkern.batch_norm_backward(dy, x, stats, weight=case.weight, bias=case.bias, out=out)
        assert differing(got._asdict(), grads) == []


@pytest.mark.parametrize("memory", cases.LAYOUTS)
@pytest.mark.parametrize(("shape", "axis", "dtype"), PROBLEMS, ids=cases.label)
def test_every_memory_layout(shape, axis, dtype, memory):
    case = cases.make(shape, axis, dtype)
    assert differing(cases.everything(case.map(cases.LAYOUTS[memory])), plain(shape, axis, dtype)) == []


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (8, 16, 28, 28), (2, 3, 129, 131)], ids=cases.label)
def test_every_place_of_the_channel_axis(shape, dtype):
    """NCHW, NHWC and any other: the values of a channel come in the same order, and so do the bits."""
    case = cases.make(shape, 1, dtype)
    results = cases.everything(case)
    full, reference = [key for key, value in results.items() if np.shape(value) == shape], digests(results)
    for axis in (0, 2, 3):
        for copy in (np.ascontiguousarray, np.asarray):
            moved = case.map(lambda a, axis=axis, copy=copy: copy(np.moveaxis(a, 1, axis)))
            got = cases.everything(replace(moved, axis=axis))
            got |= {key: np.moveaxis(got[key], axis, 1) for key in full}
            assert differing(got, reference) == [], f"axis {axis}"


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_collapsing_axes_changes_nothing(dtype):
    case = cases.make((6, 5, 4, 3, 7), 1, dtype)
    reference = cases.everything(case)
    flat = cases.everything(case.map(lambda a: a.reshape(6, 5, 84)))
    assert {k for k in flat if flat[k].tobytes() != reference[k].tobytes()} == set()


def test_many_problems_at_once_from_python_threads():
    """Callers in several Python threads share nothing."""
    problems = [cases.make(shape, axis) for shape, axis in [*cases.SMALL, *cases.LARGE[:4]]]
    want = [cases.sha(cases.everything(case)) for case in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda case: cases.sha(cases.everything(case)), problems)) == want


# ---------------------------------------------------------------- the environment, in fresh processes

ENVIRONMENTS = {
    "nothing set": {},
    **{
        f"OMP_NUM_THREADS={n}": {"OMP_NUM_THREADS": n}
        for n in ("1", "5", "0", "-3", "abc", "99999999999", "", "2,3")
    },
    "OMP_THREAD_LIMIT=1": {"OMP_THREAD_LIMIT": "1"},
    "OMP_THREAD_LIMIT=2, 7 asked for": {"OMP_THREAD_LIMIT": "2", "OMP_NUM_THREADS": "7"},
    "OMP_DYNAMIC=true": {"OMP_DYNAMIC": "true"},
    "OMP_NESTED=true": {"OMP_NESTED": "true", "OMP_MAX_ACTIVE_LEVELS": "4"},
    "OMP_SCHEDULE=dynamic,1": {"OMP_SCHEDULE": "dynamic,1"},
    "OMP_STACKSIZE=64k": {"OMP_STACKSIZE": "64k"},
    "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"},
}
CHILD = """
import json, bnkern
from helpers import cases
found = cases.fingerprints(cases.LARGE, ["float32"])
with bnkern.threads(7):
    assert cases.fingerprints(cases.LARGE[:5], ["float32"]).items() <= found.items(), "7 threads"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def expected():
    return cases.fingerprints(cases.LARGE, ["float32"])


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_every_environment(python, expected, env):
    found = json.loads(python(CHILD, env=env).stdout)
    assert {key for key in expected if found[key] != expected[key]} == set()

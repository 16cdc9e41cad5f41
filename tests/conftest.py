"""What all tests share: the installed package, the same examples in each run, names for what is skipped."""

import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent

# `python -m pytest` puts the repository's root first on the path, where the folder bnkern/ has no compiled
# module.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TESTS.parent]

try:
    import bnkern._native.cpu
except ImportError as error:
    raise pytest.UsageError(
        f"the tests need the installed package, compiled module included; got: {error}.\n"
        "Install it first, from the root of the repository: python -m pip install '.[test]'"
    ) from error

from helpers import support  # noqa: E402
from helpers.libraries import INSTALLED, Backend  # noqa: E402

# Deterministic by default; HYPOTHESIS_PROFILE=explore draws new examples each time, and many more.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=200)
hypothesis.settings.register_profile(
    "explore", deadline=None, database=None, max_examples=2000, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def python(tmp_path):
    """`support.run_python` in an empty directory."""

    def run(code, *args, **options):
        return support.run_python(code, *args, cwd=tmp_path, **options)

    return run


@pytest.fixture(params=support.LEVEL_FLAGS)
def level(request):
    """Each level's name; skipped by name where the processor lacks it."""
    if request.param not in support.processor_levels():
        pytest.skip(f"this processor has no {request.param}")
    return request.param


@pytest.fixture(params=INSTALLED, ids=str)
def backend(request):
    """Each kind of array whose library is installed, in the setting it needs; skipped by name without its device."""
    request.node.user_properties.append(("backend", str(request.param)))
    reason = request.param.missing()
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    with request.param.setting():
        yield request.param


def pytest_terminal_summary(terminalreporter):
    """Counts per kind of array, of the tests that run over all of them."""
    counts = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = dict(getattr(report, "user_properties", ())).get("backend")
            if name is not None:
                of_kind = counts.setdefault(name, {})
                of_kind[outcome] = of_kind.get(outcome, 0) + 1
    if counts:
        terminalreporter.section("tests per kind of array")
        for kind in Backend:
            told = ", ".join(f"{n} {outcome}" for outcome, n in counts.get(str(kind), {}).items())
            if not kind.installed:
                told = f"not tried: {kind.package} is not installed"
            terminalreporter.write_line(f"{kind!s:<20} {told or '-'}")


@pytest.fixture
def no_float_errors():
    """Every floating-point signal of NumPy is an error, as under np.seterr(all="raise")."""
    with np.errstate(all="raise"):
        yield


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    """A test that sets the thread count and fails must not change the next one."""
    before = bnkern.get_num_threads()
    yield
    if bnkern.get_num_threads() != before:
        bnkern.set_num_threads(before)

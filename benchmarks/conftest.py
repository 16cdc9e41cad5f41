"""Options and fixtures of the benchmark suite: `pytest benchmarks`, `pytest benchmarks --quick`."""

import sys
from functools import lru_cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# `python -m pytest` puts the repository's root first on the path, where the folder bnkern/ has no compiled
# module.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
sys.path.insert(0, str(HERE))  # layers, suite, rivals, onednn

import layers  # noqa: E402
import rivals  # noqa: E402
import suite  # noqa: E402

from bnkern.cli.measure import make_case, measure  # noqa: E402

QUICK = "two small layers, next to no time for each: shows that everything runs, not how fast"


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help=QUICK)
    parser.addoption("--seconds", type=float, default=2.0, help="for each case (default: %(default)s)")


def pytest_configure(config):
    # A smoke test of the large layers would take minutes to make the arrays.
    config.option.quick |= config.getoption("benchmark_disable", False)


def pytest_generate_tests(metafunc):
    if "problem" in metafunc.fixturenames:
        quick = metafunc.config.option.quick
        wanted = [layer for layer in layers.load() if not quick or layer.name in suite.QUICK]
        metafunc.parametrize("problem", list(suite.problems(wanted)), ids=str)


@lru_cache(maxsize=1)
def case_of(problem):
    return make_case(problem.layer.shape, suite.NAMES[problem.layout], problem.dtype)


@lru_cache(maxsize=1)
def timed(problem, op, choose, seconds, rounds):
    """Everything of one case, measured in turn: once, for the tests that each show one line of it."""
    calls = choose(case_of(problem), op, rivals.present())
    if rounds == 0:
        for call in calls.values():
            call()
        return {who: [0.0] for who in calls}
    return measure(calls, seconds, rounds=rounds)


@pytest.fixture
def samples(request, benchmark):
    """samples(problem, op, choose) -> {who: seconds per call}; without times where timing is switched off."""
    options = request.config.option
    effort = (0.0, 0) if benchmark.disabled else (0.02, 1) if options.quick else (options.seconds, 7)
    return lambda problem, op, choose: timed(problem, op, choose, *effort)

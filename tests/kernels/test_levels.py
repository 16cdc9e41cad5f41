"""Every instruction set level against the lowest one, kernel by kernel and bit for bit."""

import json

import pytest
from helpers import cases, support

pytestmark = support.x86_only
LOWEST = next(iter(support.LEVEL_FLAGS))

# Enough sizes to leave every rest a vector of 4, 8 or 16 can leave, on both layout paths, in every option
# of `everything`.
CHILD = """
import json
from helpers import cases
problems = list(cases.SMALL + cases.LARGE)
for size in sorted({*range(1, 36), *cases.SIZES}):
    problems += [((2, 3, size), 1), ((size + 1, 5), -1), ((3, size), 1)]
large = cases.fingerprints(cases.HUGE, ["float32"], cases.essentials)
print(json.dumps(cases.fingerprints(problems) | large))
"""
IN_USE = "import bnkern, contextlib, io; bnkern.show_config()"


@pytest.fixture(scope="module")
def lowest(tmp_path_factory):
    done = support.run_python(CHILD, cwd=tmp_path_factory.mktemp("lowest"), env={"BNKERN_CPU": LOWEST})
    return json.loads(done.stdout)


def test_level_gives_the_bits_of_the_lowest(python, level, lowest):
    if level == LOWEST:
        pytest.skip("this is the lowest")
    found = json.loads(python(CHILD, env={"BNKERN_CPU": level}).stdout)
    assert len(found) == len(lowest) > 300
    assert {case for case in lowest if found[case] != lowest[case]} == set()


def test_level_in_use_gives_the_bits_of_the_lowest(lowest):
    found = cases.fingerprints([*cases.SMALL, *cases.LARGE])
    assert {case for case in found if found[case] != lowest[case]} == set()


SMALL_CHILD = """
from helpers import cases
import json
print(json.dumps(cases.fingerprints([*cases.SMALL, *cases.LARGE])))
"""


def test_the_plain_reference_gives_the_bits_of_the_lowest(python, lowest):
    found = json.loads(python(SMALL_CHILD, env={"BNKERN_CPU": "reference"}).stdout)
    assert {case for case in found if found[case] != lowest[case]} == set()


def test_the_plain_reference_is_never_chosen_by_itself(python):
    code = "from bnkern._native import kernels; print(kernels.level(), *kernels.levels())"
    said = python(code, env={"BNKERN_CPU": None})
    assert said.stdout.split() == [support.processor_levels()[-1], *support.processor_levels()]
    said = python("from bnkern._native import kernels; print(kernels.level())", env={"BNKERN_CPU": "reference"})
    assert said.stdout.strip() == "reference"


def test_forced_level_is_the_one_in_use(python, level):
    said = python(IN_USE, env={"BNKERN_CPU": level}).stdout
    assert level in said


@pytest.mark.parametrize("name", ["x86_v9", "avx2", "V3", " "])
def test_unknown_level_is_refused(python, name):
    done = python("import bnkern", env={"BNKERN_CPU": name}, check=False)
    assert done.returncode == 1, "an error of Python, not a crash"
    assert "BNKERN_CPU" in done.stderr
    assert "x86_v3" in done.stderr, "the message names the levels there are"


def test_level_the_processor_lacks_is_refused(python):
    lacking = [level for level in support.LEVEL_FLAGS if level not in support.processor_levels()]
    if not lacking:
        pytest.skip("this processor has every level")
    done = python("import bnkern", env={"BNKERN_CPU": lacking[0]}, check=False)
    assert done.returncode == 1
    assert "BNKERN_CPU" in done.stderr
    assert lacking[0] in done.stderr


def test_empty_variable_means_the_default(python):
    python("import bnkern", env={"BNKERN_CPU": ""})

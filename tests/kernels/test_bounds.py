"""No kernel reads or writes beyond its arrays, on any level: guarded.py makes each try fatal.

The AddressSanitizer build of .ci/run looks for the same, in the library's own memory too.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import guarded, support

pytestmark = [support.linux_only, support.skip_sanitised]


@pytest.mark.parametrize("side", ["end", "beginning"])
def test_nothing_is_touched_beyond_an_array(python, side, level):
    python(Path(guarded.__file__).read_text(), side, env={"BNKERN_CPU": level})


def test_the_guard_bites(python):
    """One element beyond the end must kill the process, or the test above proves nothing."""
    code = "import numpy as np; from helpers import guarded; a = guarded.guard(np.ones(5), 'end')\n"
    code += "np.lib.stride_tricks.as_strided(a, (6,), (8,)).sum()"
    assert python(code, check=False).returncode < 0


def test_guarded_copy_is_a_copy():
    a = np.arange(7.0)
    assert np.array_equal(guarded.guard(a, "end"), a)

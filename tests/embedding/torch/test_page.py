"""docs/pytorch.md keeps its word: every block runs, top to bottom."""

import re

from helpers.libraries import of_framework
from helpers.support import TESTS

of_framework("torch")
PAGE = (TESTS.parent / "docs" / "pytorch.md").read_text(encoding="utf-8")


def test_blocks_run(python):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    python("\n".join(blocks))


def test_it_names_what_there_is():
    import bnkern.torch

    named = set(re.findall(r"bnkern\.torch\.(\w+)", PAGE))
    assert len(named) > 5
    assert named <= set(bnkern.torch.__all__)

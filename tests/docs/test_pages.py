"""Every page of docs/ is run: its ```python blocks one after the other, in one fresh namespace and process.

A page that imports a package which is not installed is skipped by the package's name. A block that is no program of its
own (a signature, a fragment) is marked ```text in the page, so that what is marked python is what works.
"""

import ast
import re
from importlib.util import find_spec

import pytest
from helpers.support import TESTS

PAGES = sorted(path.name for path in (TESTS.parent / "docs").glob("*.md"))


def blocks(page):
    text = (TESTS.parent / "docs" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def packages(code):
    """The packages that the code imports, anywhere in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("page", PAGES)
def test_page(page, python, tmp_path):
    code = "\n".join(blocks(page))
    if not code:
        pytest.skip(f"{page} has no Python block")
    for package in sorted(set(packages(code))):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    file = tmp_path / f"{page}.py"  # a file, so that tracebacks show the line
    file.write_text(code)
    python(f"import runpy; runpy.run_path({str(file)!r}, run_name='__main__')", timeout=600)


def test_there_are_pages():
    assert "c-api.md" in PAGES

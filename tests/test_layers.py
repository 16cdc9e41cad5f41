"""The layers: imports run downwards, no module needs another to come first, and no framework comes along.

.ci/run holds the same order with import-linter; this needs nothing installed.
"""

import ast
import importlib.util
import pkgutil
import tomllib
from pathlib import Path

import pytest
from helpers.support import TESTS

import bnkern

PACKAGE = Path(bnkern.__file__).parent
FRAMEWORKS = {"torch", "jax", "cupy", "dask", "matplotlib", "rich", "scipy", "sklearn", "array_api_compat"}


def layers():
    """Top to bottom: import-linter's contract, `__init__` above the API, at the end what only a build has."""
    settings = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["tool"]["importlinter"]
    rows = [line.replace("|", " ").split() for line in settings["contracts"][0]["layers"]]
    rows.insert(next(i for i, names in enumerate(rows) if "_api" in names), ["__init__"])
    return [*rows, ["_build"]]


def row(module):
    """The layer of a module of the package, by the first part of its path."""
    found = [i for i, names in enumerate(layers()) if module.split(".")[0] in names]
    assert found, f"{module} is in no layer: give it one in pyproject.toml, [tool.importlinter]"
    return found[0]


def imports_of(path):
    """Modules of bnkern that a file imports when it is imported: not in functions, not for type checkers."""
    tree = ast.parse(path.read_text())
    nodes = list(tree.body)
    for node in tree.body:
        if isinstance(node, ast.Try):
            nodes += node.body
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            whole = node.module == "bnkern"
            names = [f"bnkern.{alias.name}" for alias in node.names] if whole else [node.module]
        else:
            continue
        yield from (name.removeprefix("bnkern.") for name in names if name.startswith("bnkern."))


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_there_are_files_to_check():
    assert len(FILES) > 10


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_downwards(file):
    here = row(file.parts[0].removesuffix(".py"))
    upwards = [
        name for name in imports_of(PACKAGE / file) if row(name) < here and row(name) != row("__init__")
    ]
    assert upwards == []


# Packages that stand on a framework: an operator of PyTorch's is registered once in a process, JAX may be missing.
ON_FRAMEWORKS = ("bnkern.torch", "bnkern.jax", "bnkern.engines.xla")
MODULES = [
    m.name
    for m in pkgutil.walk_packages([str(PACKAGE)], "bnkern.")
    if not {"demo", "__main__"} & set(m.name.split("."))
    and not f"{m.name}.".startswith(tuple(f"{p}." for p in ON_FRAMEWORKS))
]


def test_each_module_can_be_imported_first(python):
    """In one child with the package's modules dropped in between: no order of imports matters."""
    code = f"""
import importlib, sys
for name in {MODULES!r}:
    for loaded in [m for m in sys.modules if m.startswith("bnkern") and not m.startswith("bnkern._native.")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    python(code)


def test_import_brings_no_framework(python, record_property):
    """The time it takes is reported (--junit-xml), not judged: it is the machine's as much as ours."""
    code = f"""
import sys, time
import numpy
before = set(sys.modules)
start = time.perf_counter()
import bnkern
print(time.perf_counter() - start)
found = {{name.split(".")[0] for name in set(sys.modules) - before}} & {FRAMEWORKS!r}
assert not found, found
import numpy as np
x = np.random.default_rng(0).standard_normal((8, 3, 5))
y, stats = bnkern.batch_norm_train(x)
bnkern.batch_norm_backward(x, x, stats)
found = {{name.split(".")[0] for name in set(sys.modules) - before}} & {FRAMEWORKS!r}
assert not found, f"after use: {{found}}"
"""
    record_property("seconds to import bnkern after numpy", float(python(code).stdout))


@pytest.mark.parametrize("order", ["import torch, bnkern", "import bnkern, torch"])
def test_any_order_of_imports_with_torch(python, order):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code = f"""
{order}
import numpy as np
a = torch.ones(64, 64, 32, 32)
torch.nn.functional.batch_norm(a, None, None, training=True)
x = np.random.default_rng(0).standard_normal((64, 64, 32, 32)).astype("f4")
y, stats = bnkern.batch_norm_train(x)
torch.nn.functional.batch_norm(a, None, None, training=True)
assert np.isfinite(y).all()
"""
    python(code, timeout=300)

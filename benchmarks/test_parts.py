"""The parts of the suite: the lists of layers, that rivals compute what bnkern does, tables and charts."""

import json
import subprocess
import sys
from pathlib import Path

import layers
import numpy as np
import pytest
import rivals
import suite
import tables

from bnkern.cli.measure import LAYOUTS, OPS, kernel, make_case

HERE = Path(__file__).resolve().parent


# --- layers -----------------------------------------------------------------------------------------------


def test_the_lists():
    known = layers.load()
    assert len(known) == len({layer.name for layer in known}) == 24
    assert known[1] == layers.Layer("resnet50/conv2_wide", (32, 256, 56, 56), 4)
    assert known[1].size == 32 * 256 * 56 * 56
    odd = layers.load(HERE / "odd_shapes.txt")
    assert len(odd) == len({layer.name for layer in odd} - {layer.name for layer in known})
    assert set(suite.QUICK) <= {layer.name for layer in known}


@pytest.mark.parametrize("text", ["7", "3,0", "-1,2"])
def test_shapes_that_cannot_be(text):
    with pytest.raises(ValueError, match="shape: expected at least two sizes"):
        layers.parse_shape(text)


def test_a_matrix_comes_once():
    matrix = [layers.Layer("m", (4, 8), 1)]
    assert [p.layout for p in suite.problems(matrix, dtypes=["float32"])] == ["nhwc"]


# --- rivals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 20), (3, 20, 5, 7)], ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", list(rivals.RIVALS))
@pytest.mark.parametrize("dtype", [dtype for dtype in suite.DTYPES if dtype in ("float32", "bfloat16")])
def test_rival_computes_the_same(dtype, name, op, shape, layout):
    if rivals.missing(name):
        pytest.skip(rivals.missing(name))
    if len(shape) == 2 and layout == LAYOUTS[0]:
        layout = LAYOUTS[1]
    case, tolerance = make_case(shape, layout, dtype), 1e-4 if dtype == "float32" else 5e-2
    expected = kernel(case, op, fresh=True)()
    expected = expected[0] if isinstance(expected, tuple) else expected
    calls = rivals.calls(case, op, [name])
    if not calls:
        pytest.skip(f"{name} has no {op} for this")
    for who, call in calls.items():
        case.out.fill(np.nan)
        got, exact = (np.asarray(a, float) for a in (result_of(call, case, op), expected))
        np.testing.assert_allclose(got, exact, rtol=tolerance, atol=tolerance, err_msg=who)


def result_of(call, case, op):
    """y, dx or the mean that a call made or wrote, in the case's own layout."""
    found = call()
    if hasattr(call, "result"):  # oneDNN in a layout of its own
        return call.result()
    if found is None:  # written to `out`
        return case.out
    if type(found).__module__ == "torch" or type(found[0]).__module__ == "torch":
        first = found if hasattr(found, "numpy") else found[1] if op == "stats" else found[0]
        plain = first.float().numpy()
        return plain if case.axis == 1 or op == "stats" else np.moveaxis(plain, 1, -1)
    return np.asarray(found[0] if isinstance(found, tuple) else found)


# --- tables, charts, the whole -----------------------------------------------------------------------------


def figures(path):
    """A report of one layer, as the command makes it."""
    command = [sys.executable, str(HERE / "report.py"), "--seconds", "0.01", "--out", str(path)]
    command += ["--charts", str(path), "--no-sweep", "--shapes", "32,64,32,32", "--rivals", "none"]
    command += ["--ops", "train,stats", "--layouts", "nchw", "--dtypes", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=path)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(next(path.glob("*.json")).read_text())


def test_report(tmp_path):
    pytest.importorskip("matplotlib")
    out, report = figures(tmp_path)
    assert "## Against the limit" in out
    assert "| float32, train, nchw | - | - |" in out
    assert [case["op"] for case in report["cases"]] == ["train", "stats"]
    assert report["cases"][0]["bytes"] == 2 * 32 * 64 * 32 * 32 * 4
    assert next(tmp_path.glob("*.md")).read_text() == out
    assert [path.name for path in tmp_path.glob("*.png")] == ["bench-layers-nchw-float32.png"]


def one(who, **seconds):
    times = {name.replace("_", " "): value for name, value in seconds.items()}
    return {"seconds": times, "limit": "copy", "size": 20e6, "layer": who}


def test_ratios():
    case = one("a", limit=2.0, bnkern=3.0, bnkern_residual=4.5, onednn_cf=9.0, onednn_blocked=6.0)
    assert tables.LIMIT(case) == 1.5
    assert tables.COMPARED["oneDNN, best layout"](case) == 2.0
    assert tables.COMPARED["torch"](case) is None
    assert tables.own_read(case) == 1.5
    other = one("b", limit=1.0, bnkern=6.0)
    assert tables.mean([case, other], tables.LIMIT) == pytest.approx(3.0)
    assert tables.worst([case, other]) == "6.00 b"
    assert tables.mean([], tables.LIMIT) is None

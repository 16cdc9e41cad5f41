"""The parts of the suite: lists of layers, that rivals compute what bnkern does, figures, bars, tables, pictures."""

import subprocess
import sys
from pathlib import Path

import bars
import corners
import figures
import layers
import machine
import numpy as np
import pytest
import readme
import results
import rivals
import small
import suite
import tables

from bnkern.cli.measure import LAYOUTS, OPS, Case, kernel, make_case

HERE = Path(__file__).resolve().parent


# --- layers -----------------------------------------------------------------------------------------------


def test_the_lists():
    known = layers.load()
    assert len(known) == len({layer.name for layer in known}) == 24
    assert known[1] == layers.Layer("resnet50/conv2_wide", (32, 256, 56, 56), 4)
    assert known[1].size == 32 * 256 * 56 * 56
    odd = layers.load(HERE / "odd_shapes.txt")
    assert len(odd) == len({layer.name for layer in odd} - {layer.name for layer in known})
    assert set(suite.QUICK) | set(suite.SELECTED) <= {layer.name for layer in known}
    assert len(suite.selected()) == len(suite.SELECTED)


def test_drawn_layers():
    drawn = layers.drawn(7, 200)
    assert drawn == layers.drawn(7, 200)
    assert drawn[:5] != layers.drawn(8, 5)
    assert all(1 << 18 <= layer.size <= 1 << 25 and min(layer.shape) >= 1 for layer in drawn)
    assert {len(layer.shape) for layer in drawn} == {2, 4}
    assert any(layer.shape[1] % 16 for layer in drawn)


@pytest.mark.parametrize("text", ["7", "3,0", "-1,2"])
def test_shapes_that_cannot_be(text):
    with pytest.raises(ValueError, match="shape: expected at least two sizes"):
        layers.parse_shape(text)


def test_a_matrix_comes_once():
    matrix = [layers.Layer("m", (4, 8), 1)]
    assert [p.layout for p in suite.problems(matrix, dtypes=["float32"])] == ["nhwc"]


# --- rivals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "layout"), [((6, 20), LAYOUTS[1]), *(((3, 20, 5, 7), layout) for layout in LAYOUTS)])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", list(rivals.RIVALS))
@pytest.mark.parametrize("dtype", suite.DTYPES)
def test_rival_computes_the_same(dtype, name, op, shape, layout):
    if rivals.missing(name):
        pytest.skip(rivals.missing(name))
    case, tolerance = make_case(shape, layout, dtype), TOLERANCE[dtype]
    expected = kernel(case, op, fresh=True)()
    expected = expected[0] if isinstance(expected, tuple) else expected
    calls = rivals.calls(case, op, [name])
    if not calls:
        pytest.skip(f"{name} has no {op} for this")
    for who, call in calls.items():
        for a in (case.out, getattr(call, "out", case.out)):  # oneDNN's own, in a layout of its own
            a.fill(np.nan)
        got, exact = (np.asarray(a, float) for a in (result_of(call, case, op), expected))
        np.testing.assert_allclose(got, exact, rtol=tolerance, atol=tolerance, err_msg=who)


TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def test_contenders_are_those_near_the_best(monkeypatch):
    monkeypatch.setattr(rivals, "_seconds", lambda call: call())
    times = {"bnkern": 9.0, "torch": 5.0, "onednn cf": 3.0, "onednn cl": 1.3, "onednn-gomp blocked": 1.0}
    kept = rivals.contenders({who: lambda t=t: t for who, t in times.items()})
    assert list(kept) == ["bnkern", "torch", "onednn cl", "onednn-gomp blocked"]


def result_of(call, case, op):
    """y, dx or the mean that a call made or wrote, in the case's own layout."""
    found = call()
    if hasattr(call, "result"):  # oneDNN in a layout of its own
        return call.result()
    if found is None:  # written to `out`
        return case.out
    if type(found).__module__ == "torch" or type(found[0]).__module__ == "torch":
        first = found if hasattr(found, "numpy") else found[1] if op == "stats" else found[0]
        plain = first.double().numpy()
        return plain if case.axis == 1 or op == "stats" else np.moveaxis(plain, 1, -1)
    return np.asarray(found[0] if isinstance(found, tuple) else found)


# --- the machine, small calls, corners -------------------------------------------------------------------


def test_state_of_the_machine():
    state = machine.state()
    latency = state["one way ns"]
    assert latency is None or latency > 0
    assert all(value > 0 for name, value in state.items() if name.startswith("copy GB/s"))


def test_slices_own_no_memory():
    case = make_case((32, 64), LAYOUTS[1])
    view = small.sliced(case)
    assert not view.x.flags.owndata
    assert not view.weight.flags.owndata
    np.testing.assert_array_equal(kernel(view, "train", fresh=True)()[0], kernel(case, "train", fresh=True)()[0])


def test_corners_are_cut_from_one_memory():
    memory = make_case((4096, 1), LAYOUTS[1])
    case = corners.cut(memory, 3, 7)
    assert isinstance(case, Case)
    assert (case.x.shape, case.axis, case.stats.count) == ((195, 3, 7), 1, 195 * 7)
    assert np.shares_memory(case.out, memory.out)
    assert corners.cut(memory, 16, corners.LAST).x.shape == (256, 16)
    assert corners.cut(memory, 4096, 7) is None
    assert corners.ratio(case, "train", 0.001) > 0


# --- figures, tables, pictures, the whole -----------------------------------------------------------------


def one(layer, size=20e6, **seconds):
    times = {name.replace("_", " "): value for name, value in seconds.items()}
    keys = {"list": "shapes", "layer": layer, "shape": [1], "times": 1, "layout": "nchw", "dtype": "float32"}
    return keys | {"seconds": times, "op": "train", "how": "", "limit": "copy", "size": size, "bytes": 2 * size}


def report_of(*cases):
    return {"cases": list(cases), "corners": [], "sixteen": [], "small": []}


def test_ratios():
    case = one("a", limit=2.0, bnkern=3.0, bnkern_residual=4.5, onednn_cf=9.0, onednn_blocked=6.0)
    assert figures.LIMIT(case) == 1.5
    assert figures.COMPARED["oneDNN"](case) == 2.0
    assert figures.COMPARED["torch"](case) is None
    assert figures.ahead(case) == 2.0
    assert figures.own_read(case) == 1.5
    other = one("b", limit=1.0, bnkern=6.0)
    assert figures.mean([case, other], figures.LIMIT) == pytest.approx(3.0)
    assert figures.extreme([case, other], figures.LIMIT) == (6.0, other)
    assert figures.mean([], figures.LIMIT) is None


def test_bars():
    report = report_of(one("a", limit=1.0, bnkern=1.2, torch=6.0), one("b", limit=1.0, bnkern=1.4, torch=5.0))
    found = {bar.what: bar for bar in bars.bars(report)}
    assert found["channels first, train: times the limit, 16 MB and more"].met
    assert found["channels first, train: worst line"].measured[0] == "1.40 b"
    assert found["channels first, train, 16 MB and more: PyTorch's time"].met
    assert found["channels last, train: worst line"].met is None
    report["cases"].append(one("c", limit=1.0, bnkern=1.7))
    found = {bar.what: bar for bar in bars.bars(report)}
    assert found["channels first, train: worst line"].met is False
    assert "**no**" in bars.text(report)


def test_losses():
    won, lost = (
        one("won", limit=1.0, bnkern=1.0, torch=2.0),
        one("lost", limit=1.0, bnkern=4.0, torch=5.0, onednn_cl=2.0),
    )
    report = report_of(won, lost, one("tiny", size=100, bnkern=2.0, torch=1.0))
    assert [case["layer"] for case in bars.losses(report)] == ["lost", "tiny"]
    assert bars.tally(report) == ([lost], "1 of 2 lines of 1 MB and more (1 of 1 smaller ones)")
    assert "| lost | 1 | 20 | 4e+06 | 4.00 | onednn cl | 0.50 |" in bars.losses_text(report)


def test_corner_bars():
    lines = [{"op": "train", "MB": 4, "channels": 3, "x limit": [1.0, None, 2.6] + [1.0] * 5}]
    assert corners.worst(lines) == [("train", 4, 2.6, "3 channels, rows of 49")]
    assert [bar.met for bar in bars.bars(report_of() | {"corners": lines}) if "corner" in bar.what] == [False]


def test_report(tmp_path):
    """From the command to the files, and the same page again from either of them."""
    pytest.importorskip("matplotlib")
    command = [
        sys.executable,
        str(HERE / "report.py"),
        "--parts",
        "shapes",
        "--shapes",
        "32,64,32,32",
        "--rivals",
        "none",
    ]
    command += ["--ops", "train,stats", "--layouts", "nchw", "--seconds", "0.01", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--charts", str(tmp_path)], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "## Bars" in done.stdout
    assert "| float32, train, nchw | - | - |" in done.stdout
    assert next(tmp_path.glob("*.md")).read_text() == done.stdout
    assert [path.name for path in tmp_path.glob("*.png")] == ["bench-layers.png"]
    summary, raw = (results.load(next(tmp_path.glob(where))) for where in ("*.json", "raw/*.json"))
    assert [case["op"] for case in summary["cases"]] == ["train", "stats"]
    assert summary["cases"][0]["bytes"] == 2 * 32 * 64 * 32 * 32 * 4
    assert summary["machine"]["after"]
    assert tables.render(results.reduced(raw, "median")) == done.stdout.rstrip("\n")
    assert readme.section(summary) == readme.section(results.reduced(raw, "median"))
    least = results.reduced(raw, "least")["cases"][0]["seconds"]["bnkern"]
    assert least <= summary["cases"][0]["seconds"]["bnkern"] * 1.001


def test_the_readme_says_what_the_results_say():
    """Mend it with: python benchmarks/report.py --again benchmarks/results/FILE.json --readme README.md."""
    told = (HERE.parent / "README.md").read_text().partition(readme.BEGIN)[2].partition(readme.END)[0]
    assert told in [readme.section(report) for report in results.kept(HERE / "results")]


def test_readme_is_pasted_between_its_marks(tmp_path):
    page, report = tmp_path / "README.md", report_of() | {"machine": FACTS}
    page.write_text(f"before\n{readme.BEGIN}old{readme.END}\nafter\n")
    readme.paste(report, page)
    assert page.read_text() == f"before\n{readme.BEGIN}{readme.section(report)}{readme.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="expected the marks"):
        readme.paste(report, page)


STATE = {"load": 0.1, "one way ns": 40.0}
FACTS = {
    "bnkern": "1", "commit": "c", "processor": "p", "date": "d", "threads": 2, "isa": "x86_v4", "compiler": "gcc",
    "python": "3", "packages": {"torch": "2.13.0+cpu", "onednn": "3.13"}, "before": STATE, "after": STATE,
}  # fmt: skip


def test_every_part_reaches_the_page():
    us = {op: {"float32": 2.0, "bfloat16": 1.0, "float16": 3.0} for op in suite.MAIN_OPS}
    times = {"bnkern": 1e-6, "bnkern, slices": 1.2e-6, "torch": 4e-6}
    report = report_of(one("a", limit=1.0, bnkern=1.2, torch=6.0)) | {"machine": FACTS}
    report["options"] = {"statistic": "median", "seed": 5, "parts": ["drawn"]}
    report["corners"] = [{"op": "train", "MB": 4, "channels": 3, "x limit": [1.0, None, 2.6] + [1.0] * 5}]
    report["sixteen"] = [{"isa": "x86_v3", "layer": "a", "shape": [4096, 2048], "layout": "nhwc", "us": us}]
    report["small"] = [{"shape": [4, 8], "op": "train", "warm": times, "after": times}]
    page = tables.render(report)
    for said in (
        "seed 5",
        "| 3 | 1.00 | - | 2.60 |",
        "x86_v3, float16, train, nhwc | 1.50",
        "(4,8) train, warm | 1.0 | 1.2 | 4.0",
    ):
        assert said in page
    section = " ".join(readme.section(report).split())
    for said in ("40 ns from core to core", "bfloat16 0.50", "| (4,8) training | 1.0 | 4.0 |"):
        assert said in section

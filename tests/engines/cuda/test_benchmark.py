"""benchmarks/gpu.py runs from end to end, on CuPy's stand-in: its figures mean nothing here and are kept nowhere."""

import ctypes
import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from helpers import fake_cupy

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"


class Event:
    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


@pytest.fixture
def script(chip, monkeypatch):
    cupy = sys.modules["cupy"]
    runtime = cupy.cuda.runtime
    monkeypatch.setattr(cupy, "__version__", "0", raising=False)
    monkeypatch.setattr(cupy.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda a, b: 1e3 * (b.at - a.at), raising=False)
    monkeypatch.setattr(fake_cupy.Stream, "synchronize", lambda self: None, raising=False)
    monkeypatch.setattr(cupy, "ElementwiseKernel", lambda *_: lambda a, b, c: c.__setitem__(..., a + b), raising=False)
    for name, value in {
        "getDeviceProperties": lambda _: {"name": b"An Emulation", "totalGlobalMem": 1},
        "driverGetVersion": lambda: 0,
        "memcpyDeviceToDevice": 3,
        "memcpyAsync": lambda to, source, n, *_: ctypes.memmove(to, source, n),
    }.items():
        monkeypatch.setattr(runtime, name, value, raising=False)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FLUSH", 16)
    monkeypatch.setattr(module, "IN_A_ROW", 1)
    yield module
    sys.path[:] = before


def test_it_runs_and_writes(script, tmp_path):
    pytest.importorskip("ml_dtypes")
    script.main(["--shapes", "tiny", "--rounds", "1", "--out", str(tmp_path)])
    script.main(["--shapes", "mnist", "--rounds", "1", "--dtypes", "float32", "--out", "."])
    (figures,) = tmp_path.glob("*-an-emulation.json")
    report = json.loads(figures.read_text())
    assert len(report["cases"]) == 3 * 2 * 2
    for case in report["cases"]:
        assert case["shape"] == [8, 32, 14, 14]
        assert {"bnkern", "limit"} <= set(case["milliseconds"])
    assert [entry["op"] for entry in report["small"]] == ["inference", "train", "backward"]
    assert "times the limit" in figures.with_suffix(".md").read_text()

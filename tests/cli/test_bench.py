"""`bnkern bench` and what benchmarks are made of: that it runs and says the right things, not how fast."""

import gc
import sys
from itertools import groupby

import numpy as np
import pytest

import bnkern
from bnkern.cli import bench as _bench
from bnkern.cli import measure as _measure
from bnkern.cli.main import main
from bnkern.cli.measure import LAYOUTS, OPS, kernel, limit, make_case, measure

SHAPE = (3, 8, 5, 7)


# --- timing -----------------------------------------------------------------------------------------------


def test_measure_takes_turns():
    heard = []
    calls = {name: lambda name=name: heard.append(name) for name in "abc"}
    seconds = measure(calls, 0.01, rounds=4)
    assert list(seconds) == ["a", "b", "c"]
    assert all(len(samples) >= 3 and min(samples) > 0 for samples in seconds.values())
    assert "".join(name for name, _ in groupby(heard)).startswith("abc" * 4)  # once to see how long, then rounds


def test_measure_switches_garbage_collection_on_again():
    def fails():
        raise ZeroDivisionError

    measure({"quick": int}, 0.0, rounds=1)
    assert gc.isenabled()
    failing = iter([None] * 3)
    with pytest.raises(ZeroDivisionError):
        measure({"failing": lambda: next(failing, 0) == 0 and fails()}, 0.01)
    assert gc.isenabled()


def test_settle_ends():
    _measure.settle(0.01)


# --- one layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_case(layout, dtype):
    case = make_case(SHAPE, layout, dtype)
    assert case.x.shape == (SHAPE if layout == LAYOUTS[0] else (3, 5, 7, 8))
    assert case.x.shape[case.axis] == case.weight.size == 8
    for a in (case.x, case.dy, case.out, case.y):
        assert a.dtype == dtype
        assert a.flags.c_contiguous
    assert case.stats.count == 3 * 5 * 7
    assert _measure.least_bytes(case, "backward") == 3 * case.x.nbytes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_kernel_is_the_public_call(op, layout):
    case = make_case(SHAPE, layout)
    x, dy, w, b, axis = case.x, case.dy, case.weight, case.bias, case.axis
    expected = {
        "inference": lambda **k: bnkern.batch_norm_inference(
            x, running_mean=case.mean, running_var=case.var, weight=w, bias=b, axis=axis, **k
        ),
        "train": lambda **k: bnkern.batch_norm_train(x, weight=w, bias=b, axis=axis, **k)[0],
        "backward": lambda **k: bnkern.batch_norm_backward(dy, x, case.stats, weight=w, bias=b, axis=axis, **k).dx,
        "frozen": lambda **k: (
            bnkern.batch_norm_backward(dy, x, case.stats, weight=w, bias=b, axis=axis, frozen=True, **k).dx
        ),
        "stats": lambda **k: bnkern.batch_stats(x, axis=axis).mean,
    }[op]
    assert_same(kernel(case, op)(), expected())
    assert_same(kernel(case, op, fresh=True)(), expected())
    if op != "stats":
        assert_same(case.out, expected())
        assert_same(kernel(case, op, relu=True)(), expected(activation="relu"))
        more = {"residual": dy} if op in ("inference", "train") else {"y": case.y}
        assert_same(kernel(case, op, residual=True)(), expected(activation="relu", **more))


def assert_same(got, expected):
    np.testing.assert_array_equal(got[0] if isinstance(got, tuple) else got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_limit_moves_the_data(dtype, threads):
    case = make_case((5, 7, 31), dtype=dtype)
    limit(case, "copy", threads)()
    np.testing.assert_array_equal(case.out, case.x)
    limit(case, "triad", threads)()
    np.testing.assert_array_equal(case.out, case.x + case.dy)


def test_limit_counts_16_bit_numbers_as_bytes():
    case = make_case(SHAPE)
    half = case.x.astype(np.float16)
    words = _measure._words(half)
    assert words.nbytes == half.nbytes
    assert np.shares_memory(words, half)


def test_with_threads():
    before = bnkern.get_num_threads()
    assert _measure.with_threads(5, bnkern.get_num_threads)() == 5
    assert bnkern.get_num_threads() == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_torch_computes_the_same(op, layout):
    pytest.importorskip("torch")
    case = make_case(SHAPE, layout)
    expected = kernel(case, op, fresh=True)()
    expected = expected[0] if isinstance(expected, tuple) else expected
    for name, call in _measure.torch_calls(case, op).items():
        result = call()
        got = result if hasattr(result, "numpy") else result[1] if op == "stats" else result[0]
        moved = got.numpy() if layout == LAYOUTS[0] or op == "stats" else np.moveaxis(got.numpy(), 1, -1)
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_kept_heap_leaves_the_call_as_it_is():
    call = _measure.on_kept_heap(lambda: np.ones(1 << 20), 8 << 20)
    assert call().sum() == call().sum() == 1 << 20


# --- the command ------------------------------------------------------------------------------------------


def bench(capsys, *arguments):
    """Run the command in next to no time; its exit status, what it said, what it complained about."""
    status = main(["bench", "--seconds", "0.01", *arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("rich", [True, False])
def test_table(capsys, monkeypatch, rich):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    else:
        pytest.importorskip("rich")
        monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = bench(capsys, "--shape", "2,3,5,5", "--dtype", "float64", "--no-torch")
    assert status == 0
    for text in (f"bnkern {bnkern.__version__} on", "threads: ", "The limit here: copy", "GB/s", *OPS):
        assert text in out
    for layout in LAYOUTS:
        assert f"2,3,5,5 {layout} float64, 1.2 kB" in out


def test_torch_stands_beside(capsys):
    pytest.importorskip("torch")
    status, out, _ = bench(capsys, "--shape", "4,8", "--ops", "inference")
    assert status == 0
    assert "channels last" in out
    assert "channels first" not in out  # a matrix has one layout
    row = next(line for line in out.splitlines() if "inference" in line)
    assert " - " not in row


def test_without_torch(capsys, monkeypatch):
    monkeypatch.setattr(_bench, "find_spec", lambda name: None)
    status, out, _ = bench(capsys, "--shape", "4,8", "--ops", "stats")
    assert status == 0
    assert "PyTorch is not installed" in out


def test_options(capsys):
    before = bnkern.get_num_threads()
    arguments = [
        "--shape",
        "2,3,4",
        "--layout",
        "nhwc",
        "--ops",
        "train,stats",
        "--threads",
        "1",
        "--no-torch",
    ]
    status, out, _ = bench(capsys, *arguments)
    assert status == 0
    assert "threads: 1" in out
    assert "channels first" not in out
    assert "backward" not in out.replace("(backward, frozen)", "")
    assert bnkern.get_num_threads() == before


@pytest.mark.parametrize("arguments", [["--shape", "1,4"], ["--shape", "1000000,10000,1000"]])
def test_shapes_that_cannot_be(capsys, arguments):
    status, _, err = bench(capsys, *arguments)
    assert status == 2
    assert err.startswith(f"bnkern bench: {arguments[1]}: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shape", "7"], "expected at least two sizes such as 32,256,56,56, got '7'"),
        (["--shape", "3,0"], "expected at least two sizes"),
        (["--shape", "a,b"], "expected at least two sizes"),
        (["--ops", "forward"], "expected some of inference, train"),
        (["--threads", "0"], "expected a whole number from 1 to 512, got '0'"),
        (["--dtype", "int8"], "invalid choice"),
        (["--layout", "chwn"], "invalid choice"),
    ],
)
def test_arguments_that_are_refused(capsys, arguments, told):
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_processor_has_a_name():
    assert _bench.processor()


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (9.8e-8, "0.098 us")]
)
def test_time_in_words(seconds, text):
    assert _bench.time_in_words(seconds) == text

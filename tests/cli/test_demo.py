"""`bnkern demo`: its network, its records, its report and picture, and what it says when it cannot run."""

import gzip
import io
import math
import struct
import sys

import numpy as np
import pytest
from rich.console import Console
from threadpoolctl import threadpool_info

import bnkern
from bnkern.cli.demo import command, data, network, picture, report, training
from bnkern.cli.demo.errors import DemoError
from bnkern.cli.main import main

# --- the network ------------------------------------------------------------------------------------------


def float64_network(normalise):
    """A small network in float64, as finite differences need it, and a minibatch."""
    rng = np.random.default_rng(3)
    net = network.Network((6, 5, 4, 3), rng, spread=0.8, normalise=normalise)
    net.weights = [weight.astype(np.float64) for weight in net.weights]
    for step in net.steps:
        for name, value in vars(step).items():
            if isinstance(value, np.ndarray):
                setattr(step, name, value + 0.3 * rng.standard_normal(value.shape))
    return net, rng.standard_normal((8, 6)), rng.integers(0, 3, 8)


def parameters(net):
    arrays = [
        a for step in net.steps for a in vars(step).values() if isinstance(a, np.ndarray) and a.ndim == 1
    ]
    return [*net.weights, *arrays]


def loss(net, images, labels):
    h = images
    for weight, step in zip(net.weights[:-1], net.steps[:-1], strict=True):
        h = network.sigmoid(step.train(h @ weight))
    p = network.softmax(net.steps[-1].train(h @ net.weights[-1]))
    return -np.log(p[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("normalise", [False, True])
def test_a_step_descends_the_numerical_gradient(normalise):
    net, images, labels = float64_network(normalise)
    places = [(array, place) for array in parameters(net) for place in np.ndindex(array.shape)]
    expected = []
    for array, place in places:
        before, h = array[place], 1e-6
        array[place] = before + h
        above = loss(net, images, labels)
        array[place] = before - h
        expected.append((above - loss(net, images, labels)) / (2 * h))
        array[place] = before
    before = [array[place] for array, place in places]
    net.train(images, labels, rate=1.0)
    moved = [was - array[place] for was, (array, place) in zip(before, places, strict=True)]
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=2e-8)


def test_inference_uses_the_running_statistics():
    net, images, labels = float64_network(normalise=True)
    before = [net.inference(row[None])[0] for row in images]
    np.testing.assert_allclose(np.concatenate(before), net.inference(images)[0])  # no row influences another
    net.train(images, labels, rate=0.0)
    assert not np.allclose(net.inference(images)[0], np.concatenate(before))


def test_sigmoid_does_not_overflow():
    z = np.array([-1e30, -1.0, 0.0, 1.0, 1e30], np.float32)
    np.testing.assert_allclose(
        network.sigmoid(z), [0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1], rtol=1e-6
    )
    assert network.sigmoid(z).dtype == np.float32


# --- training ---------------------------------------------------------------------------------------------


def run_both(digits, **settings):
    settings = training.Settings(**settings)
    steps = []
    runs = [
        training.train(
            digits, settings, normalise=normalise, report=lambda step, accuracy: steps.append(step)
        )
        for normalise in (False, True)
    ]
    assert steps == [*runs[0].steps, *runs[1].steps]
    return runs


@pytest.fixture(scope="module")
def digits():
    return data.load(None)


@pytest.fixture(scope="module")
def short(digits):
    """Both networks after 300 steps."""
    return run_both(digits, steps=300)


def test_normalised_network_learns_while_the_plain_one_waits(short):
    plain, normalised = short
    assert normalised.accuracy[-1] > 0.9
    assert normalised.first_reaching(plain.best) < plain.first_reaching(plain.best)
    assert 0 < normalised.norm_seconds < normalised.seconds
    assert plain.norm_seconds == 0


def test_plain_network_learns_too(digits):
    """The comparison would be worth nothing otherwise."""
    plain = training.train(digits, training.Settings(steps=2000), normalise=False, report=lambda *_: None)
    assert plain.best > 0.93


def test_both_start_alike(short):
    plain, normalised = short
    np.testing.assert_allclose(plain.percentiles[0], normalised.percentiles[0], rtol=1e-3)
    assert plain.steps[0] == 0
    assert plain.steps[-1] == 300
    assert plain.percentiles.shape == (len(plain.steps), 3)
    assert (np.diff(normalised.percentiles) >= 0).all()


def test_the_seed_decides_everything(digits):
    for one, two in zip(run_both(digits, steps=30, seed=5), run_both(digits, steps=30, seed=5), strict=True):
        np.testing.assert_array_equal(one.accuracy, two.accuracy)
        np.testing.assert_array_equal(one.percentiles, two.percentiles)
    assert (run_both(digits, steps=30, seed=6)[0].percentiles != one.percentiles).any()


def test_training_keeps_to_one_thread(monkeypatch):
    before = bnkern.get_num_threads()
    with training.one_thread():
        assert all(lib["num_threads"] == 1 for lib in threadpool_info() if lib["user_api"] == "blas")
        assert bnkern.get_num_threads() == 1
    assert bnkern.get_num_threads() == before
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with training.one_thread():
        assert bnkern.get_num_threads() == 1


def test_minibatches_visit_every_image_once_an_epoch():
    batches = training.minibatches(10, 3, np.random.default_rng(0))
    for _ in range(4):
        epoch = np.concatenate([next(batches) for _ in range(3)])
        assert len(set(epoch)) == 9


# --- report and picture -----------------------------------------------------------------------------------


def history(accuracy, every=10):
    accuracy = np.array(accuracy, float)
    percentiles = accuracy[:, None] + [-1.0, 0.0, 1.0]
    return training.History(np.arange(len(accuracy)) * every, accuracy, percentiles, 2.0, 0.5)


def shown(part):
    console = Console(width=80, file=io.StringIO())
    console.print(part)
    return console.file.getvalue()


def test_first_reaching():
    run = history([0.1, 0.5, 0.7, 0.6])
    assert run.best == 0.7
    assert run.first_reaching(0.5) == 10
    assert run.first_reaching(0.6) == 20
    assert run.first_reaching(0.8) is None


def test_summary_and_verdict():
    plain, normalised = history([0.1, 0.2, 0.3, 0.6, 0.8]), history([0.1, 0.85, 0.8, 0.9, 0.9])
    text = shown(report.summary_table(plain, normalised))
    assert "first step with 80.0%" in text
    assert "0.50 s (25%)" in text
    assert report.seconds_to(plain, plain.best) == 2.0
    assert report.seconds_to(normalised, plain.best) == 0.5
    assert "10 steps instead of 40: a ratio of 4.0." in " ".join(
        shown(report.verdict(plain, normalised)).split()
    )


def test_verdict_when_there_is_no_lead():
    good, poor = history([0.1, 0.8, 0.9]), history([0.1, 0.2, 0.3])
    assert "did not reach" in report.verdict(good, poor)
    assert "never" in shown(report.summary_table(good, poor))
    assert "learned nothing" in report.verdict(history([0.1, 0.1]), poor)


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [
        (5000, 25, [0, 50, 100, 200, 500, 1000, 2000, 5000]),
        (400, 2, [0, 2, 4, 10, 20, 50, 100, 200, 400]),
        (1, 1, [0, 1]),
        (30, 10, [0, 10, 20, 30]),
    ],
)
def test_rows_of_the_table(last, every, expected):
    steps = np.arange(0, last + 1, every)
    assert [steps[row] for row in report.table_rows(steps)] == expected


@pytest.mark.parametrize("worst", [0.1, np.nan])
def test_picture(tmp_path, digits, worst):
    plain, normalised = history([0.1, 0.2, 0.8]), history([0.1, 0.7, 0.9])
    plain.percentiles[1] = worst
    picture.draw(tmp_path / "a.png", digits, plain, normalised)
    head = (tmp_path / "a.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", head[16:]) == (1680, 576)


def test_target_of_the_picture_is_checked_first(tmp_path):
    picture.check_target(tmp_path / "new.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("folder.png", "none/a.png", "a.xyz", "a"):
        with pytest.raises(DemoError, match="--out: expected"):
            picture.check_target(tmp_path / name)


# --- the command ------------------------------------------------------------------------------------------


def test_demo_from_start_to_end(tmp_path, capsys):
    assert main(["demo", "--quick", "--out", str(tmp_path / "figure.png")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in (
        "scikit-learn's digits",
        "64 - 100 - 100 - 100 - 10",
        "Test accuracy",
        "in batch norm",
        "--quick",
    ):
        assert text in out
    assert "figure.png" in out
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def write_mnist(folder, count):
    """A pair of IDX files: images of 2 by 2 pixels, labels 0 and 1."""
    images = struct.pack(">4B3I", 0, 0, 8, 3, count, 2, 2) + bytes(range(4)) * count
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(
        struct.pack(">4BI", 0, 0, 8, 1, count) + bytes((0, 1)) * (count // 2)
    )


def test_demo_on_files_needs_no_scikit_learn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    write_mnist(tmp_path, 100)
    odd = tmp_path / "[red]odd"  # not to be taken for markup
    odd.mkdir()
    assert main(["demo", "--data", str(tmp_path), "--steps", "5", "--out", str(odd / "a.svg")]) == 0
    assert "[red]odd" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        (("matplotlib",), "matplotlib"),
        (("sklearn",), "scikit-learn"),
        (("rich", "matplotlib", "sklearn"), "rich and matplotlib and scikit-learn"),
    ],
)
def test_a_missing_extra_is_one_line(capsys, monkeypatch, absent, named):
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--quick"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"bnkern demo: needs {named}, of the extra 'demo': pip install '.[demo]', from the source folder\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "/nowhere"], "path that does not exist"),
        (["--batch", "1"], "expected 2 to 1297"),
        (["--batch", "1298"], "expected 2 to 1297"),
        (["--out", "/nowhere/a.png"], "folder that exists"),
    ],
)
def test_wrong_values_are_one_line(capsys, arguments, told):
    assert main(["demo", "--quick", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--steps", text] for text in ("0", "-1", "1.5", "x", "")),
        *(["--rate", text] for text in ("0", "-1", "nan", "inf")),
        ["--seed", "-1"],
        ["--batch", "0"],
        ["--unknown"],
    ],
)
def test_wrong_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["demo", *arguments])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_requirements_are_those_of_the_extra():
    command.require("rich", "matplotlib", "sklearn")

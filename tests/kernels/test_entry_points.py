"""The compiled modules by themselves: no call may crash (fuzz_entry_points.py does the calling), and what memory safety
needs is refused in words before anything is written.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import fuzz_entry_points, native

from bnkern._native import cpu, kernels, memory, vectors


@pytest.mark.parametrize("seed", [0, 1])
def test_no_argument_crashes_an_entry_point(python, seed):
    said = python(Path(fuzz_entry_points.__file__).read_text(), seed, timeout=300).stdout
    counts = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    assert set(fuzz_entry_points.ATTACKED) <= set(counts)
    for name in native.PASSES:  # a fuzzer that gets nowhere, or everywhere, tests nothing
        succeeded, raised = map(int, counts[name])
        assert succeeded > 20, f"{name}: {counts[name]}"
        assert raised > 100, f"{name}: {counts[name]}"


def test_the_level_in_use_is_one_of_those_there_are():
    assert kernels.level() in kernels.levels()
    assert isinstance(kernels.has_openmp(), bool)


def arrays():
    """Operands of every pass, and results that nobody has written to yet."""
    rng = np.random.default_rng(0)
    large = {name: rng.standard_normal((4, 3, 5)).astype("f4") for name in ("x", "dy", "residual", "y")}
    small = {
        name: rng.uniform(1, 2, 3) for name in ("mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat")
    }
    return large | small | {"activation": 1, "out": np.full((4, 3, 5), 7, "f4")}


VECTORS = {
    "train": ("weight", "bias"),
    "normalise": ("weight", "bias", "mean", "var"),
    "reduce": ("weight", "bias", "mean", "var"),
    "backward": ("weight", "bias", "mean", "var"),
    "input_grad": ("weight", "bias", "mean", "var", "sum_dy", "sum_dy_xhat"),
}


@pytest.mark.parametrize(("passes", "name"), [(p, name) for p in VECTORS for name in VECTORS[p]])
@pytest.mark.parametrize("length", [0, 1, 2, 4])
def test_a_vector_of_another_length_is_refused(passes, name, length):
    given = arrays()
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(3,\), got \({length},\)"):
        native.run(passes, **given | {name: np.ones(length)})
    assert (given["out"] == 7).all(), "written before the vector was refused"


@pytest.mark.parametrize(("passes", "name"), [(p, name) for p in VECTORS for name in VECTORS[p]])
@pytest.mark.parametrize("bad", [3.0, [1.0, 1.0, 1.0], np.ones(3, "i8"), np.ones(3, "c8")], ids=repr)
def test_a_vector_of_another_kind_is_refused(passes, name, bad):
    given = arrays()
    with pytest.raises(TypeError, match=rf"^{name}: expected "):
        native.run(passes, **given | {name: bad})
    assert (given["out"] == 7).all()


LARGE = {
    "stats": ("x",),
    "train": ("x", "residual", "out"),
    "normalise": ("x", "residual", "out"),
    "reduce": ("x", "dy", "y"),
    "backward": ("x", "dy", "y", "out"),
    "input_grad": ("x", "dy", "y", "out"),
}


@pytest.mark.parametrize(("passes", "name"), [(p, name) for p in LARGE for name in LARGE[p]])
def test_an_operand_of_another_shape_or_type_is_refused(passes, name):
    given = arrays()
    if len(LARGE[passes]) > 1:
        for bad in (np.ones((4, 3, 6), "f4"), np.ones((4, 3), "f4"), np.ones((3, 4, 5), "f4")):
            with pytest.raises(ValueError, match="expected shape"):
                native.run(passes, **given | {name: bad})
        with pytest.raises(TypeError, match="expected dtype"):
            native.run(passes, **given | {name: np.ones((4, 3, 5))})
    for bad in (np.ones((4, 3, 5), "i4"), np.ones((4, 3, 5), "c8"), [1.0], 0):
        with pytest.raises(TypeError, match="expected"):
            native.run(passes, **given | {name: bad})
    assert (given["out"] == 7).all()


@pytest.mark.parametrize("passes", ["train", "normalise", "input_grad", "backward"])
def test_a_written_array_must_be_writeable(passes):
    given = arrays()
    given["out"].flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: expected a writeable array"):
        native.run(passes, **given)
    assert (given["out"] == 7).all()


@pytest.mark.parametrize("passes", [0, 3, 6, 7, 9, 12, 13, 15, 16, 21, -1])
def test_passes_that_do_not_belong_together_are_refused(passes):
    with pytest.raises(ValueError, match=r"^passes: expected"):
        native.run(passes, **arrays())


@pytest.mark.parametrize("activation", [-1, 100])
def test_an_activation_that_is_none_is_refused(activation):
    with pytest.raises(ValueError, match=r"^activation: expected"):
        native.run("train", **arrays() | {"activation": activation})


@pytest.mark.parametrize("axis", [3, -4, 100])
def test_an_axis_that_is_none_is_refused(axis):
    with pytest.raises(ValueError, match=r"^axis: expected"):
        native.run("train", **arrays() | {"axis": axis})


def test_what_is_needed_and_missing_is_named():
    for name in ("x", "dy", "mean", "var", "sum_dy", "sum_dy_xhat"):
        with pytest.raises(TypeError, match=rf"^{name}: expected a NumPy array, got NoneType"):
            native.run("input_grad", **arrays() | {name: None})


def test_without_elements_statistics_are_zero():
    found = native.run("stats", x=np.ones((0, 3, 5), "f4"))
    assert (found["mean"] == 0).all()
    assert (found["var"] == 0).all()
    assert found["mean"].shape == (3,)
    x = np.ones((4, 0), "f4")
    assert native.run("train", x=x)["out"].shape == (4, 0)


def test_what_no_kernel_can_walk_is_left_alone():
    given = arrays()
    backwards = given["x"][..., ::-1]
    assert native.run("train", x=backwards, out=given["out"]) is None
    assert native.run("train", x=given["x"].astype(">f4")) is None
    assert (given["out"] == 7).all()
    assert cpu.layout(backwards, 1) is None
    assert cpu.layout(given["x"], 1) == "channels first"
    assert cpu.layout(given["x"], -1) == "channels last"
    nine_axes_with_gaps = np.ones((3,) * 10, "f4")[(slice(None, None, 2),) * 9]
    assert native.run("stats", x=nine_axes_with_gaps, axis=-1) is None


@pytest.mark.parametrize("odd", ["tag", "wide"])
def test_a_field_of_a_structured_array_has_no_layout(odd):
    record = np.zeros((4, 3, 5), [("tag", "u1"), ("value", "f4"), ("wide", "f8")])
    assert native.run("stats", x=np.ones_like(record["value"])) is not None
    assert native.run("stats", x=record["value"]) is None


def test_results_in_the_models_memory_order():
    x = np.asfortranarray(np.ones((300, 200), "f4"))
    assert memory.empty_like(x).strides == x.strides
    with pytest.raises(TypeError, match=r"^model: expected"):
        memory.empty_like([1.0])


def test_both_running_statistics_at_once():
    """As one after the other; what cannot be done at once is left alone."""
    rng = np.random.default_rng(3)
    mean, var, new_mean, new_var = rng.uniform(1, 2, (4, 200))
    for dtype in (np.float64, np.float32, np.float16):
        a, b, c, d = (np.repeat(v.astype(dtype), 2)[::2] for v in (mean, var, mean, var))
        assert vectors.ema_update_both(a, new_mean, b, new_var, 0.3, 1.5)
        vectors.ema_update(c, new_mean, 0.3, 1.0)
        vectors.ema_update(d, new_var, 0.3, 1.5)
        assert a.tobytes() == c.tobytes()
        assert b.tobytes() == d.tobytes()
        assert not np.array_equal(a, mean.astype(dtype))
    fixed = var.copy()
    fixed.flags.writeable = False
    for odd in (var.astype(">f8"), var.tolist(), fixed, var[:3], var.reshape(2, 100)):
        before = mean.copy()
        assert not vectors.ema_update_both(mean, new_mean, odd, new_var, 0.3, 1.5)
        assert np.array_equal(mean, before)


def test_ema_update_refuses_what_it_cannot_write():
    running = np.ones(3)
    running.flags.writeable = False
    with pytest.raises(ValueError, match="update_running"):
        vectors.ema_update(running, np.ones(3), 0.1, 1.0)
    with pytest.raises(ValueError, match="running: expected the shape of value"):
        vectors.ema_update(np.ones(2), np.ones(3), 0.1, 1.0)
    assert not vectors.ema_update(np.ones(3, ">f8"), np.ones(3), 0.1, 1.0)
    with pytest.raises(TypeError, match="dtype: expected a NumPy dtype"):
        vectors.cast(np.ones(3), "f4")
    with pytest.raises(ValueError, match="value: expected a vector"):
        vectors.cast(np.ones((3, 1)), np.dtype("f4"))


def test_the_limit_streams_gapless_arrays():
    x, dy = np.arange(100_003.0), np.ones(100_003)
    out = np.zeros_like(x)
    for threads in (1, 3):
        cpu.limit(x, None, out, threads=threads)
        assert (out == x).all()
        cpu.limit(x, dy, out, threads=threads)
        assert (out == x + 1).all()
    with pytest.raises(ValueError, match=r"^limit: expected C-contiguous"):
        cpu.limit(x[::2], None, out[::2], threads=1)


@pytest.mark.parametrize(("passes", "name"), [("train", "eps"), ("train", "parameter"), ("input_grad", "count")])
def test_code_that_runs_while_operands_are_read_finds_no_pointer_taken(python, passes, name):
    """An attribute that resizes x as it is read: wrong, and no reason to read where x was."""
    python(
        f"""
import numpy as np
from bnkern._native import cpu
from helpers import native

x = np.ones((64, 300, 50), np.float32)

class Hostile:
    def __getattr__(self, asked):
        value = getattr(made, asked)
        if asked == {name!r}:
            x.resize((2, 300, 0), refcheck=False)
        return value

one = np.ones(300)
made = native.call(x=x, dy=np.ones((64, 300, 50), np.float32), mean=one, var=one, sum_dy=one, sum_dy_xhat=one)
try:
    cpu.run(Hostile(), native.PASSES[{passes!r}], 2)
except (TypeError, ValueError):
    pass
"""
    )

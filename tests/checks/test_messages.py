"""What newcomers do, and that the message names what they want: reviews of the first users, point by point."""

import re

import numpy as np
import pytest
from helpers.libraries import of_framework

import bnkern
from bnkern._words import describe

X = np.random.default_rng(0).standard_normal((4, 6, 6, 3)).astype(np.float32)  # NHWC
THREE, SIX, FOUR = np.ones(3, np.float32), np.ones(6, np.float32), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("vector", "axis", "question"), [(THREE, 1, "axis=-1"), (FOUR, 1, "axis=0"), (SIX, -1, "axis=1")]
)
def test_the_axis_is_asked_for_when_the_length_fits_another(vector, axis, question):
    with pytest.raises(ValueError, match=rf"weight: expected shape .*; did you mean {question}\?"):
        bnkern.batch_norm_train(X, weight=vector, axis=axis)


def test_no_question_where_no_axis_fits():
    with pytest.raises(ValueError, match=r"got shape \(5,\)$"):
        bnkern.batch_norm_train(X, weight=np.ones(5, np.float32))


@pytest.mark.parametrize("stats", [(SIX, SIX), (SIX, SIX, None)])
def test_running_statistics_without_frozen(stats):
    with pytest.raises((TypeError, ValueError), match="frozen=True"):
        bnkern.batch_norm_backward(X, X, stats)


@pytest.mark.parametrize(
    ("library", "make", "remedy"),
    [
        ("torch", lambda m: m.ones(4, 3), r"torch\.from_numpy\(weight\)"),
        ("jax", lambda m: m.numpy.ones((4, 3)), r"jax\.numpy\.asarray\(weight\)"),
        ("dask.array", lambda m: m.ones((4, 3), dtype="f4"), r"dask\.array\.from_array\(weight\)"),
    ],
)
def test_numpy_beside_another_library(library, make, remedy):
    with pytest.raises(TypeError, match=f"weight: expected an array of .*, as x is, got one of numpy; give {remedy}"):
        bnkern.batch_norm_train(make(pytest.importorskip(library)), weight=THREE)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integers(dtype):
    with pytest.raises(TypeError, match=r"x: expected dtype .*; convert it: x\.astype\('float32'\)"):
        bnkern.batch_stats(np.ones((4, 3), dtype))
    torch = of_framework("torch")
    with pytest.raises(TypeError, match=r"x: expected dtype .*; convert it: x\.float\(\)"):
        bnkern.batch_stats(torch.ones(4, 3, dtype=getattr(torch, dtype)))


def test_half_vectors_beside_wider_arrays():
    with pytest.raises(
        TypeError, match="weight: expected dtype float32 or float64, got float16; 16-bit vectors go with"
    ):
        bnkern.batch_norm_train(X, weight=SIX.astype(np.float16))


# ---------------------------------------------------------------- objects that raise when they are looked at


class Raises:
    """Every attribute that is asked for, and its repr, raise: PyTorch has such (nested, uninitialised)."""

    @property
    def shape(self):
        raise RuntimeError("no shape yet")

    def __repr__(self):
        raise RuntimeError("no words")

    def __index__(self):
        raise RuntimeError("no number")


class ShapeOfThree:
    shape, dtype = 3, "float32"


ODD = {"raises": Raises(), "shape is 3": ShapeOfThree(), "the class": np.ndarray, "many digits": 10**5000}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "argument", ["eps", "stats", "axis", "activation", "frozen", "weight", "needs", "y", "dy", "x"]
)
def test_errors_are_ours_whatever_is_handed_in(argument, odd):
    x = X[0]
    arguments = {"dy": x, "x": x, "stats": bnkern.batch_stats(x), argument: ODD[odd]}
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected .*, got "):
        bnkern.batch_norm_backward(**arguments)


NO_PARTS = [*ODD.values(), np.array(1.0), memoryview(np.ones((2, 2))), "abc", b"abc"]


@pytest.mark.parametrize("odd", NO_PARTS, ids=lambda value: type(value).__name__)
def test_merge_of_what_has_no_parts(odd):
    with pytest.raises(TypeError, match=r"^parts(\[0\])?: expected .*, got "):
        bnkern.merge_stats(odd)
    if not isinstance(odd, (str, bytes)):
        with pytest.raises(TypeError, match=r"^parts\[0\]: expected BatchStats\(mean, var, count\), got "):
            bnkern.merge_stats([odd])


@pytest.mark.parametrize("odd", ODD)
def test_sums_and_counts(odd):
    x, stats = X[0], bnkern.batch_stats(X[0])
    with pytest.raises(TypeError, match=r"^sums: expected GradSums"):
        bnkern.backward_apply(x, x, stats, ODD[odd])
    with pytest.raises((TypeError, ValueError), match=r"^stats\.count: expected"):
        bnkern.backward_reduce(x, x, stats._replace(count=ODD[odd]))


@pytest.mark.parametrize("sums", [5, 3, 1, 0])
def test_sums_have_two_entries(sums):
    x, stats = X[0], bnkern.batch_stats(X[0])
    with pytest.raises(ValueError, match=rf"sums: expected two entries \(sum_dy, sum_dy_xhat\), got {sums}"):
        bnkern.backward_apply(x, x, stats, tuple(np.zeros(6) for _ in range(sums)))


def test_words_for_anything():
    assert describe(None) == "None"
    assert describe(X) == "ndarray of shape (4, 6, 6, 3) and dtype float32"
    assert describe(np.ndarray) == "the class ndarray"
    assert describe(Raises()).startswith("Raises ")
    assert describe(ShapeOfThree()).startswith("ShapeOfThree ")
    assert describe(10**5000).startswith("int")


def test_a_negative_zero_is_zero():
    """It compares equal to 0.0, so whichever came first would answer for both."""
    mean, var = np.zeros(6, np.float32), np.zeros(6, np.float32)
    for eps in (-0.0, 0.0):
        bnkern.checks.problem._problem.cache_clear()
        p = bnkern.checks.problem.problem(X, 1, eps)
        assert str(p.eps) == "0.0"
        y = bnkern.batch_norm_inference(X[:, :, :, :1] * 0 + 1, running_mean=mean, running_var=var, eps=eps)
        assert (y == np.inf).all()


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("activation", ["gelu", ("relu",), ("relu", 0.1), (), "", ("gelu", 1)])
def test_unknown_activations_name_those_there_are(activation):
    from bnkern._activations import choices

    with pytest.raises((TypeError, ValueError), match=f"activation: expected {re.escape(choices())}, got "):
        bnkern.batch_norm_train(X, activation=activation)


def test_the_list_of_activations():
    """One entry each: what is one there is taken, and numbered as the kernels number it."""
    from bnkern._activations import ACTIVATIONS, BY_NUMBER, parse

    assert parse(None) == (0, 0.0)
    assert len(BY_NUMBER) == len(ACTIVATIONS) == len({entry.name for entry in ACTIVATIONS})
    for entry in ACTIVATIONS:
        if entry.parameter is None:
            assert parse(entry.name) == (entry.number, 0.0)


@pytest.mark.parametrize("slope", [-0.1, -1e-300, 1e-40, 1e39, np.inf, np.nan, "0.1", None, True, np.ones(2)])
def test_a_slope_is_a_number_that_y_tells_the_sign_through(slope):
    """A negative one would not; one that float32 has not would differ between kernels and dtypes."""
    with pytest.raises((TypeError, ValueError), match="activation: "):
        bnkern.batch_norm_train(X, activation=("leaky_relu", slope))


@pytest.mark.parametrize("slope", [0, 0.0, -0.0, np.float32(0)])
def test_leaky_relu_of_slope_0_is_relu(slope):
    """To the bit: 0 * -inf and 0 * -1 never happen."""
    x = X.copy()
    x[0, 0, 0, 0] = -np.inf
    how = {"running_mean": np.zeros(X.shape[1]), "running_var": np.ones(X.shape[1])}
    leaky = bnkern.batch_norm_inference(x, activation=("leaky_relu", slope), **how)
    assert leaky.tobytes() == bnkern.batch_norm_inference(x, activation="relu", **how).tobytes()


def test_a_slope_is_judged_whatever_was_called_before():
    """True equals 1.0, and must not be found in its place."""
    bnkern.batch_norm_train(X, activation=("leaky_relu", 1.0))
    with pytest.raises(TypeError, match="activation: "):
        bnkern.batch_norm_train(X, activation=("leaky_relu", True))


def test_a_lazy_count_is_not_computed():
    da = pytest.importorskip("dask.array")
    asked = []
    lazy = da.map_blocks(lambda a: asked.append(a.size) or a, da.asarray(np.array(5)), dtype=int, meta=np.array(0))
    stats = bnkern.BatchStats(np.zeros(3), np.ones(3), lazy)
    with pytest.raises(TypeError, match="count: expected an integer"):
        bnkern.merge_stats([stats])
    assert not asked

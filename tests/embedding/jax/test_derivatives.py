"""Gradients against finite differences, in the modes that exist, and what happens in those that do not."""

import numpy as np
import pytest
from helpers import cases
from helpers.libraries import of_framework

import bnkern

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import bnkern.jax  # noqa: E402


@pytest.fixture
def double():
    with jax.enable_x64(True):
        case = cases.make((3, 3, 4), 1, "float64")
        yield {name: jnp.asarray(getattr(case, name)) for name in ("x", "dy", "weight", "bias", "residual")}


@pytest.mark.parametrize("activation", [None, "relu6"])
def test_training_twice_in_reverse(path, double, activation):
    """Through y and through the statistics, first and second order."""

    def f(x, weight, bias, residual):
        y, stats, *_ = bnkern.jax.batch_norm_train(
            x, weight=weight, bias=bias, residual=residual, activation=activation
        )
        return y, stats.mean, stats.var

    arguments = [double[name] for name in ("x", "weight", "bias", "residual")]
    check_grads(jax.jit(f), arguments, order=2, modes=["rev"])


@pytest.mark.parametrize("activation", [None, ("leaky_relu", 0.2)])
def test_inference_twice_in_reverse(path, double, activation):
    """With respect to the statistics too."""

    def f(x, mean, var, weight, bias):
        return bnkern.jax.batch_norm_inference(
            x, running_mean=mean, running_var=var, weight=weight, bias=bias, activation=activation
        )

    arguments = [double["x"], double["bias"] / 2, double["weight"] ** 2 + 0.5, double["weight"], double["bias"]]
    check_grads(jax.jit(f), arguments, order=2, modes=["rev"])


@pytest.mark.parametrize(
    "function", [lambda x: bnkern.jax.batch_norm_train(x).stats, bnkern.batch_stats], ids=["train", "stats"]
)
@pytest.mark.parametrize("seen", [("mean",), ("var",), ("mean", "var"), ()], ids=" ".join)
def test_through_the_statistics_alone(path, double, function, seen):
    """Nothing else of the call is looked at, so its gradient has only their parts, each of which may be a row."""

    def f(x):
        stats = function(x)
        return sum(((getattr(stats, name) + 1) ** 3).sum() for name in seen) + 0.0 * x[0, 0, 0]

    check_grads(jax.jit(f), (double["x"],), order=2, modes=["rev"])
    assert jax.grad(f)(double["x"]).shape == double["x"].shape
    assert jax.vmap(jax.grad(f))(double["x"][None]).shape == (1, *double["x"].shape)


def test_plain_functions_in_reverse(path, double):
    """batch_stats, and the backward functions themselves, whose gradients are second ones."""
    x, dy, weight = double["x"], double["dy"], double["weight"]
    check_grads(jax.jit(lambda x: bnkern.batch_stats(x)[:2]), (x,), order=2, modes=["rev"])

    @jax.jit
    def backward(dy, x, weight):
        stats = bnkern.batch_stats(x)
        sums = bnkern.backward_reduce(dy, x, stats, weight=weight)
        dx = bnkern.backward_apply(dy, x, stats, sums, weight=weight)
        return dx, bnkern.batch_norm_backward(dy, x, stats, weight=weight)[:3]

    check_grads(backward, (dy, x, weight), order=1, modes=["rev"])


def test_forward_mode_is_refused(path, double):
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: bnkern.jax.batch_norm_train(x).y, (double["x"],), (double["dy"],))


def test_forward_mode_by_formula(double):
    """What the documentation names as the way out: every mode, and the kernels' numbers to rounding."""
    x, weight, bias = double["x"], double["weight"], double["bias"]

    def f(x, weight, bias):
        found = bnkern.jax.batch_norm_train(x, weight=weight, bias=bias, activation="relu")
        return found.y, found.stats.mean

    want = f(x, weight, bias)
    with bnkern.jax.use_path("array_api"):
        check_grads(jax.jit(f), (x, weight, bias), order=1, modes=["fwd", "rev"])
        got = f(x, weight, bias)
        running = bnkern.jax.batch_norm_train(x, running_mean=bias, running_var=weight**2, momentum=0.2)
        still = bnkern.jax.batch_norm_inference(x, running_mean=bias, running_var=weight**2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, want)
    again = bnkern.jax.batch_norm_train(x, running_mean=bias, running_var=weight**2, momentum=0.2)
    np.testing.assert_allclose(running.running_var, again.running_var, rtol=1e-12)
    np.testing.assert_allclose(
        still, bnkern.jax.batch_norm_inference(x, running_mean=bias, running_var=weight**2), atol=1e-12
    )


def test_running_statistics_are_constants(arrays):
    def f(x):
        found = bnkern.jax.batch_norm_train(
            x, running_mean=arrays["running_mean"], running_var=arrays["running_var"]
        )
        return found.running_mean.sum() + found.running_var.sum()

    assert np.array_equal(jax.grad(f)(arrays["x"]), np.zeros(arrays["x"].shape))


def test_what_nobody_wants_is_not_computed(path, arrays):
    """Frozen inference differentiated with respect to x alone: one pass, no sums, in a program of its own."""

    def f(x, weight):
        y = bnkern.jax.batch_norm_inference(
            x, running_mean=arrays["running_mean"], running_var=arrays["running_var"], weight=weight
        )
        return (y * arrays["dy"]).sum()

    def calls(argnums):
        program = str(jax.make_jaxpr(jax.grad(f, argnums))(arrays["x"], arrays["weight"]))
        names = [line for line in program.splitlines() if "f32[5]" in line.partition("=")[0]]
        return sum("callback" in line or "ffi_call" in line for line in names)

    assert calls((0,)) == 0  # of kernel calls with a vector among their results
    assert calls((0, 1)) == 1

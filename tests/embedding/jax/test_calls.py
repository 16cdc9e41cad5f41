"""What is refused, in which words; NumPy arrays as arguments; many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402

import bnkern.jax  # noqa: E402

train, inference = bnkern.jax.batch_norm_train, bnkern.jax.batch_norm_inference
X, V = jnp.ones((4, 5)), jnp.ones(5)

WRONG = {
    "position": (lambda: train(X, V), TypeError, "batch_norm_train takes x by position and everything else by keyword"),
    "dtype": (lambda: train(X.astype(int)), TypeError, "x: expected dtype float32 or"),
    "rank": (lambda: train(V), ValueError, "x: expected at least 2 dimensions"),
    "list": (lambda: train([[1.0]]), TypeError, "x: expected an array"),
    "axis": (lambda: train(X, axis=2), ValueError, "axis: expected an axis of x"),
    "weight": (lambda: train(X, weight=jnp.ones(4)), ValueError, r"weight: expected shape \(5,\)"),
    "residual": (lambda: train(X, residual=V), ValueError, r"residual: expected shape \(4, 5\)"),
    "eps": (lambda: train(X, eps=0), ValueError, "eps: expected a number > 0 in training"),
    "one value": (lambda: train(X[:1]), ValueError, "x: expected more than one value per channel"),
    "one running": (lambda: train(X, running_mean=V), ValueError, "running_var: expected an array"),
    "momentum": (lambda: train(X, momentum="x"), TypeError, "momentum: expected a real number, got str 'x'"),
    "momentum array": (lambda: train(X, momentum=V), TypeError, "momentum: expected a real number or a JAX scalar"),
    "num_batches": (lambda: train(X, momentum=None), ValueError, "num_batches: expected the number of batches so far"),
    "num_batches float": (lambda: train(X, momentum=None, num_batches=V[0]), TypeError, "num_batches: expected an int"),
    "correction": (lambda: train(X, correction=4), ValueError, "correction: expected a number >= 0 and below"),
    "running": (lambda: inference(X, running_mean=V), TypeError, "running_var: expected an array"),
    "other": (lambda: train(X, weight=[1] * 5), TypeError, "weight: expected an array"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_refused_when_traced(wrong):
    call, error, words = WRONG[wrong]
    with pytest.raises(error, match=words):
        call()


def test_numpy_arrays_are_taken(case):
    y = train(case.x, weight=case.weight, bias=jnp.asarray(case.bias)).y
    assert isinstance(y, jax.Array)
    assert same_bits(np.asarray(y), bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias)[0])


def test_programs_on_many_threads(path):
    """Calls that share the processors: the same bits each time, and none waits for another."""
    case = cases.make((8, 40, 33, 29), 1)
    want, stats = bnkern.batch_norm_train(case.x, weight=case.weight)
    dx = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight).dx

    @jax.jit
    def step(x, dy):
        y, pull = jax.vjp(lambda x: train(x, weight=case.weight).y, x)
        return y, pull(dy)[0]

    x, dy = jnp.asarray(case.x), jnp.asarray(case.dy)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: jax.block_until_ready(step(x, dy)), range(24)))
    for y, grad in found:
        assert same_bits(np.asarray(y), want)
        assert same_bits(np.asarray(grad), dx)


def test_independent_calls_in_one_program(path):
    """XLA may run them side by side on its own threads."""
    many = [cases.make((6, 8, 31, 17), 1, seed=k) for k in range(6)]
    results = jax.jit(lambda xs: [train(x).y for x in xs])([jnp.asarray(c.x) for c in many])
    for y, c in zip(results, many, strict=True):
        assert same_bits(np.asarray(y), bnkern.batch_norm_train(c.x)[0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_every_integer_counts_batches(path, arrays, dtype):
    given = {"running_mean": arrays["running_mean"], "running_var": arrays["running_var"], "momentum": None}
    want = train(arrays["x"], num_batches=3, **given)
    with jax.enable_x64("64" in dtype):
        got = jax.jit(lambda n: train(arrays["x"], num_batches=n, **given))(jnp.asarray(3, dtype))
        last = train(arrays["x"], num_batches=jnp.asarray(jnp.iinfo(dtype).max, dtype), **given)
    assert same_bits(np.asarray(got.running_mean), np.asarray(want.running_mean))
    assert np.isfinite(last.running_var).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_real_number_is_a_momentum(path, arrays, dtype):
    given = {"running_mean": arrays["running_mean"], "running_var": arrays["running_var"]}
    want = train(arrays["x"], momentum=0.25, **given)
    with jax.enable_x64("64" in dtype):
        got = jax.jit(lambda m: train(arrays["x"], momentum=m, **given))(jnp.asarray(0.25, dtype))
    assert same_bits(np.asarray(got.running_mean), np.asarray(want.running_mean))
    assert same_bits(np.asarray(got.running_var), np.asarray(want.running_var))

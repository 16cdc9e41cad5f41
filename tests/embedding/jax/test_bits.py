"""The bits of the eager calls on NumPy arrays, whatever JAX does around the kernels, with and without its float64."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402

import bnkern.jax  # noqa: E402

DTYPES = ["float32", "bfloat16", "float16"]


def training(case, activation, residual):
    """value_and_grad of a training call on NumPy arrays, by name."""
    mean, var = (case.bias / 2).astype("float32"), (case.weight**2).astype("float32")
    y, stats, vjp = bnkern.batch_norm_vjp(
        case.x, weight=case.weight, bias=case.bias, running_mean=mean, running_var=var, axis=case.axis,
        activation=activation, residual=case.residual if residual else None,
    )  # fmt: skip
    grads = {name: a for name, a in vjp(case.dy)._asdict().items() if a is not None}
    return {"y": y, "mean": stats.mean, "var": stats.var, "running_mean": mean, "running_var": var, **grads}


def training_by_jax(case, activation, residual, way):
    mean, var = jnp.asarray(case.bias / 2, jnp.float32), jnp.asarray(case.weight**2, jnp.float32)

    def forward(given):
        found = bnkern.jax.batch_norm_train(
            given["dx"], weight=given["dweight"], bias=given["dbias"], running_mean=mean, running_var=var,
            axis=case.axis, activation=activation, residual=given.get("dresidual"),
        )  # fmt: skip
        return found.y, found

    def both(given, dy):
        _, pull, found = jax.vjp(forward, given, has_aux=True)
        return found, pull(dy)[0]

    given = {"dx": case.x, "dweight": case.weight, "dbias": case.bias}
    given |= {"dresidual": case.residual} if residual else {}
    found, grads = way(both)({name: jnp.asarray(a) for name, a in given.items()}, jnp.asarray(case.dy))
    assert found.stats.count == case.x.size // case.channels
    return {"y": found.y, "mean": found.stats.mean, "var": found.stats.var, "running_mean": found.running_mean,
            "running_var": found.running_var, **grads}  # fmt: skip


def differences(got, want, x64=False):
    wide = "float64" if x64 else "float32"
    want = {name: a.astype(wide) if name in ("mean", "var") else a for name, a in want.items()}
    assert got.keys() == want.keys()
    return [name for name in want if not same_bits(np.asarray(got[name]), want[name])]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_and_its_gradient(path, dtype, activation, residual):
    case = cases.make((5, 7, 9, 6), -1 if residual else 1, dtype)
    want = training(case, activation, residual)
    assert differences(training_by_jax(case, activation, residual, jax.jit), want) == []


def test_without_jit(path):
    case = cases.make((5, 7, 9, 6), 2)
    want = training(case, ("leaky_relu", 0.1), True)
    assert differences(training_by_jax(case, ("leaky_relu", 0.1), True, lambda f: f), want) == []


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_with_float64(path, dtype):
    with jax.enable_x64(True):
        case = cases.make((5, 7, 9, 6), 1, dtype)
        want = training(case, "relu", True)
        assert differences(training_by_jax(case, "relu", True, jax.jit), want, x64=True) == []


def test_a_mean_that_float32_cannot_hold(path):
    """Without jax_enable_x64 the statistics that come back are rounded, those of the backward pass are not."""
    case = cases.make((16, 3, 33), 1)
    case.x[...] += np.float32(12345.678)
    assert differences(training_by_jax(case, None, False, jax.jit), training(case, None, False)) == []


def test_large_and_with_any_number_of_threads():
    case = cases.make((3, 28, 28, 65), -1)
    want = training(case, "relu", True)
    before = bnkern.get_num_threads()
    try:
        for threads in (1, 2, 3):
            bnkern.set_num_threads(threads)
            assert differences(training_by_jax(case, "relu", True, jax.jit), want) == []
    finally:
        bnkern.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "activation"), [("float32", None), ("bfloat16", "relu6"), ("float16", "relu6")])
def test_inference_and_its_gradient(path, dtype, activation):
    case = cases.make((4, 6, 5, 7), 2, dtype)
    mean, var = case.bias.astype("float32"), (case.weight**2).astype("float32")
    how = {"axis": 2, "activation": activation}
    y = bnkern.batch_norm_inference(
        case.x, running_mean=mean, running_var=var, weight=case.weight, bias=case.bias, residual=case.residual, **how
    )
    grads = bnkern.batch_norm_backward(
        case.dy, case.x, (mean, var, None), weight=case.weight, bias=case.bias, y=y, frozen=True,
        needs=("x", "weight", "bias", "residual"), **how,
    )  # fmt: skip

    def forward(x, weight, bias, residual):
        return bnkern.jax.batch_norm_inference(
            x, running_mean=mean, running_var=var, weight=weight, bias=bias, residual=residual, **how
        )

    arguments = [jnp.asarray(a) for a in (case.x, case.weight, case.bias, case.residual)]
    got, pull = jax.vjp(jax.jit(forward), *arguments)
    assert same_bits(np.asarray(got), y)
    for name, a, b in zip(grads._fields, pull(jnp.asarray(case.dy)), grads, strict=True):
        assert same_bits(np.asarray(a), b), name


@pytest.mark.parametrize(("dtype", "momentum"), [("float32", 0.3), ("bfloat16", None), ("float16", 0.3)])
def test_running_statistics_of_every_dtype(path, dtype, momentum):
    case = cases.make((8, 5, 3), 1, dtype)
    mean, var = case.bias.astype(dtype), np.abs(case.weight).astype(dtype)
    old = jnp.asarray(mean), jnp.asarray(var)
    how = {"momentum": momentum, "num_batches": 3, "correction": 0}
    bnkern.batch_norm_train(case.x, running_mean=mean, running_var=var, **how)
    got = jax.jit(lambda x, m, v: bnkern.jax.batch_norm_train(x, running_mean=m, running_var=v, **how)[2:])(
        case.x, *old
    )
    assert same_bits(np.asarray(got[0]), mean)
    assert same_bits(np.asarray(got[1]), var)


def test_plain_functions_under_jit(path, case):
    """The functions of bnkern itself, on traced arrays: forward, backward, and in parts."""
    with jax.enable_x64(True):

        @jax.jit
        def step(x, dy, weight, bias, residual):
            how = {"weight": weight, "bias": bias, "activation": "relu"}
            y, stats = bnkern.batch_norm_train(x, residual=residual, **how)
            grads = bnkern.batch_norm_backward(dy, x, stats, y=y, needs=("x", "weight", "bias", "residual"), **how)
            sums = bnkern.backward_reduce(dy, x, stats, y=y, **how)
            dx = bnkern.backward_apply(dy, x, stats, sums, y=y, **how)
            z = bnkern.batch_norm_inference(x, running_mean=stats.mean, running_var=stats.var, **how)
            return y, stats[:2], grads, sums, dx, bnkern.batch_stats(x)[:2], z

        arguments = case.x, case.dy, case.weight, case.bias, case.residual
        got = jax.tree.leaves(step(*map(jnp.asarray, arguments)))
        want = jax.tree.leaves(step.__wrapped__(*arguments))
        assert [i for i, (a, b) in enumerate(zip(got, want, strict=True)) if not same_bits(np.asarray(a), b)] == []

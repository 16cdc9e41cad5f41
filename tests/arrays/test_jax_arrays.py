"""JAX arrays: concrete ones on the CPU kernels, traced and sharded ones in pure jax.numpy, none ever written."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern
from bnkern._dtypes import DTYPES
from bnkern.arrays import jax as adapter

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402


@pytest.fixture
def case():
    return cases.make((4, 5, 6, 3), 1)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_lent_without_a_copy(dtype):
    with jax.enable_x64(True):
        x = jnp.arange(60.0).reshape(4, 5, 3).astype(dtype)
        lent = adapter.export(x)
        assert lent.ctypes.data == x.unsafe_buffer_pointer()
        assert not lent.flags.writeable
        result = cases.place(np.ones((4, 5, 3), dtype), 0)
        assert adapter.wrap(result, x).unsafe_buffer_pointer() == result.ctypes.data
        elsewhere = adapter.wrap(cases.place(np.ones((4, 5, 3), dtype), 16), x)  # no cache line's start: copied
        assert elsewhere.sum() == 60


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("axis", [1, -1])
def test_same_bits_as_numpy(axis, x64):
    """Odd and large. Where JAX has no float64 the statistics come rounded, and the same rounded ones give the same."""
    case = cases.make((5, 71, 33, 29), axis)
    arrays = {name: jnp.asarray(getattr(case, name)) for name in ("x", "dy", "weight", "bias", "residual")}
    x, dy, w, b, r = arrays.values()
    how = {"axis": axis, "activation": "relu"}
    with jax.enable_x64(x64):
        y, stats = bnkern.batch_norm_train(x, weight=w, bias=b, residual=r, **how)
        grads = bnkern.batch_norm_backward(
            dy, x, stats, weight=w, bias=b, y=y, needs=("x", "weight", "bias", "residual"), **how
        )
    want, exact = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, residual=case.residual, **how)
    assert same_bits(y, want)
    dtype = np.float64 if x64 else np.float32
    assert same_bits(stats.mean, exact.mean.astype(dtype))
    assert same_bits(stats.var, exact.var.astype(dtype))
    given = np.asarray(stats.mean), np.asarray(stats.var), stats.count
    needs = {"needs": ("x", "weight", "bias", "residual")}
    expected = bnkern.batch_norm_backward(
        case.dy, case.x, given, weight=case.weight, bias=case.bias, y=want, **needs, **how
    )
    assert [name for name, a in grads._asdict().items() if not same_bits(a, getattr(expected, name))] == []


def test_deleted_array():
    x = jnp.ones((4, 5))
    x.delete()
    with pytest.raises(ValueError, match=r"x: .*deleted or donated"):
        bnkern.batch_stats(x)


# ---------------------------------------------------------------- traced


def test_jit_of_a_training_step(case):
    @jax.jit
    def step(x, dy, weight, mean, var):
        y, stats = bnkern.batch_norm_train(x, weight=weight)
        new = bnkern.update_running(stats, running_mean=mean, running_var=var)
        return y, bnkern.batch_norm_backward(dy, x, stats, weight=weight)[:2], new

    arguments = case.x, case.dy, case.weight, case.bias, case.weight**2
    y, (dx, dweight), new = step(*map(jnp.asarray, arguments))
    want, stats = bnkern.batch_norm_train(case.x, weight=case.weight)
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight)
    running = bnkern.update_running(stats, running_mean=case.bias, running_var=case.weight**2)
    for got, expected in ((y, want), (dx, grads.dx), (dweight, grads.dweight), *zip(new, running, strict=True)):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_grad_differentiates_the_generic_path(case):
    """JAX's derivative of the forward pass is the backward pass."""

    def loss(x, weight, bias):
        y, _ = bnkern.batch_norm_train(x, weight=weight, bias=bias, activation="relu")
        return (y * case.dy).sum()

    arguments = [jnp.asarray(a) for a in (case.x, case.weight, case.bias)]
    dx, dweight, dbias = jax.grad(loss, argnums=(0, 1, 2))(*arguments)
    how = {"activation": "relu"}
    x, how["weight"], how["bias"] = arguments
    _, stats = bnkern.batch_norm_train(x, **how)
    want = bnkern.batch_norm_backward(jnp.asarray(case.dy), x, stats, **how)
    for got, expected in zip((dx, dweight, dbias), want[:3], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_vmap_takes_each_batch_by_itself(case):
    both = np.stack([case.x, case.dy])
    y = jax.vmap(lambda x: bnkern.batch_norm_train(x)[0])(jnp.asarray(both))
    for got, x in zip(y, both, strict=True):
        np.testing.assert_allclose(got, bnkern.batch_norm_train(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("traced", ["weight", "dy", "residual", "mean"])
def test_one_traced_argument_beside_concrete_ones(case, traced):
    """The values of x are there, but not all: no kernel is asked, and no conversion fails."""
    a = {"dy": case.dy, "weight": case.weight, "residual": case.residual, "mean": case.bias}
    a = {name: jnp.asarray(value) for name, value in a.items()}
    x, var = jnp.asarray(case.x), jnp.asarray(case.weight**2)

    def everything(value):
        given = a | {traced: value}
        y = bnkern.batch_norm_inference(
            x, running_mean=given["mean"], running_var=var, weight=given["weight"], residual=given["residual"]
        )
        stats = (given["mean"], var, None)
        return y, bnkern.batch_norm_backward(given["dy"], x, stats, weight=given["weight"], frozen=True)[:2]

    got, want = jax.jit(everything)(a[traced]), everything(a[traced])
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-4)


def test_explain_in_a_trace():
    told = []
    jax.jit(lambda x: told.append(bnkern.explain(x)))(jnp.ones((4, 5)))
    assert told[0].engine == "xla"
    assert told[0].note.startswith("called when the program runs")


def test_numpy_beside_jax_is_refused_in_a_trace_too(case):
    with pytest.raises(TypeError, match=r"weight: expected an array of jax\.numpy, as x is, got one of numpy"):
        jax.jit(lambda x: bnkern.batch_norm_train(x, weight=case.weight))(case.x)


# ---------------------------------------------------------------- several devices


def test_sharded_and_placed_arrays(python):
    """Two devices: what is spread over both is computed there by jax.numpy, what sits on one stays on it."""
    code = """
import jax, jax.numpy as jnp, numpy as np, pytest, bnkern
from helpers import cases
one, two = jax.devices()
case = cases.make((4, 6, 5), 1)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
want, stats = bnkern.batch_norm_train(case.x, weight=case.weight)
dx = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight).dx

x, dy, w = jax.device_put(case.x, batch), jax.device_put(case.dy, batch), jax.device_put(case.weight, whole)
assert bnkern.explain(x).engine == "array_api"
y, stats = bnkern.batch_norm_train(x, weight=w)
assert y.sharding.is_equivalent_to(batch, 3), y.sharding
np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
got = bnkern.batch_norm_backward(dy, x, stats, weight=w).dx
assert got.sharding.is_equivalent_to(batch, 3)
np.testing.assert_allclose(got, dx, rtol=1e-4, atol=1e-5)
bnkern.batch_norm_train(x, weight=jnp.asarray(case.weight))  # a weight that no one has put anywhere goes where x is

x, w = jax.device_put(case.x, two), jax.device_put(case.weight, two)
y, stats = bnkern.batch_norm_train(x, weight=w)
assert y.devices() == stats.mean.devices() == {two}
assert np.array_equal(y, want)
with pytest.raises(TypeError, match=r"weight: expected an array on .*:1, where x is, got one on .*:0"):
    bnkern.batch_norm_train(x, weight=jax.device_put(case.weight, one))
with pytest.raises(TypeError, match=r"weight: expected an array on .*:0, where x is, got one on .*:0, .*:1"):
    bnkern.batch_norm_train(jax.device_put(case.x, one), weight=jax.device_put(case.weight, whole))
"""
    python(code, env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"})


def test_statistics_are_as_wide_as_jax_goes():
    x = jnp.ones((4, 5))
    for x64, dtype in ((False, "float32"), (True, "float64")):
        with jax.enable_x64(x64):
            assert bnkern.batch_stats(x).mean.dtype == dtype
            assert jax.jit(lambda x: bnkern.batch_stats(x)[:2])(x)[1].dtype == dtype

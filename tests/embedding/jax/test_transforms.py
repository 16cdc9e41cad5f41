"""vmap, scan, remat, shard_map, and statistics that cross the boundary of jit."""

import numpy as np
import pytest
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern

jax = of_framework("jax")
import jax.numpy as jnp  # noqa: E402

import bnkern.jax  # noqa: E402

AT_RUNTIME = (jax.errors.JaxRuntimeError, ValueError)  # JAX raises the one or the other, by how the program is called


@pytest.fixture
def three(case):
    """Three batches."""
    return np.stack([case.x, case.dy, case.residual])


def test_vmap_takes_statistics_of_each_element(path, three, case):
    def f(x, weight, mean):
        return bnkern.jax.batch_norm_train(x, weight=weight, running_mean=mean, running_var=case.weight**2)

    weights = np.stack([case.weight, case.bias, case.weight * 2])
    got = jax.jit(jax.vmap(f, in_axes=(0, 0, None)))(three, weights, case.bias)
    assert got.stats.mean.shape == (3, 5)
    assert got.stats.count == case.x.size // 5
    for k in range(3):
        mean, var = case.bias.copy(), case.weight**2
        y, stats = bnkern.batch_norm_train(three[k], weight=weights[k], running_mean=mean, running_var=var)
        assert same_bits(np.asarray(got.y[k]), y)
        assert same_bits(np.asarray(got.stats.mean[k]), stats.mean.astype("float32"))
        assert same_bits(np.asarray(got.running_mean[k]), mean)
        assert same_bits(np.asarray(got.running_var[k]), var)


def test_vmap_of_grad_and_grad_of_vmap(path, three, case):
    def loss(x, weight):
        return (bnkern.jax.batch_norm_train(x, weight=weight, activation="relu").y * case.dy).sum()

    def whole(x, weight):
        return jax.vmap(loss, in_axes=(0, None))(x, weight).sum()

    each = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))(three, case.weight)
    dx, dweight = jax.grad(whole, argnums=(0, 1))(jnp.asarray(three), jnp.asarray(case.weight))
    for k in range(3):
        _, _, vjp = bnkern.batch_norm_vjp(three[k], weight=case.weight, activation="relu")
        assert same_bits(np.asarray(each[0][k]), vjp(case.dy).dx)
        assert same_bits(np.asarray(each[1][k]), vjp(case.dy).dweight)
        assert same_bits(np.asarray(dx[k]), vjp(case.dy).dx)
    np.testing.assert_allclose(dweight, each[1].sum(0), rtol=1e-5)


def test_vmap_of_vmap(path, three, case):
    """Two axes that only some operands have: each is spread over the others."""
    weights = np.stack([case.weight, case.bias], axis=1)
    f = jax.vmap(lambda x, weight: bnkern.jax.batch_norm_train(x, weight=weight).y, in_axes=(0, None))
    got = jax.vmap(f, in_axes=(None, 1), out_axes=1)(three, weights)
    assert got.shape == (3, 2, *case.x.shape)
    for k in range(3):
        for j in range(2):
            y, _ = bnkern.batch_norm_train(three[k], weight=np.ascontiguousarray(weights[:, j]))
            assert same_bits(np.asarray(got[k, j]), y)


def test_scan_carries_running_statistics(path, three, case):
    """Traced num_batches: the cumulative average over the steps of a loop."""

    def step(carry, x):
        mean, var, n = carry
        found = bnkern.jax.batch_norm_train(x, running_mean=mean, running_var=var, momentum=None, num_batches=n + 1)
        return (found.running_mean, found.running_var, n + 1), found.y

    start = jnp.zeros(5), jnp.ones(5), 0
    (mean, var, n), ys = jax.jit(lambda xs: jax.lax.scan(step, start, xs))(three)
    want_mean, want_var = np.zeros(5, "f4"), np.ones(5, "f4")
    for k, x in enumerate(three):
        y, _ = bnkern.batch_norm_train(
            x, running_mean=want_mean, running_var=want_var, momentum=None, num_batches=k + 1
        )
        assert same_bits(np.asarray(ys[k]), y)
    assert n == 3
    assert same_bits(np.asarray(mean), want_mean)
    assert same_bits(np.asarray(var), want_var)


def test_traced_momentum(path, arrays, case):
    @jax.jit
    def f(momentum):
        return bnkern.jax.batch_norm_train(
            arrays["x"], running_mean=arrays["running_mean"], running_var=arrays["running_var"], momentum=momentum
        )

    mean, var = np.array(arrays["running_mean"]), np.array(arrays["running_var"])
    bnkern.batch_norm_train(case.x, running_mean=mean, running_var=var, momentum=float(np.float32(0.3)))
    assert same_bits(np.asarray(f(0.3).running_var), var)
    with pytest.raises(AT_RUNTIME, match="momentum: expected a finite number, got inf"):
        jax.block_until_ready(f(np.inf))


def test_num_batches_that_turns_out_wrong(path, arrays):
    @jax.jit
    def f(n):
        return bnkern.jax.batch_norm_train(
            arrays["x"], running_mean=arrays["running_mean"], running_var=arrays["running_var"], momentum=None,
            num_batches=n,
        )  # fmt: skip

    with pytest.raises(AT_RUNTIME, match="num_batches: expected an integer >= 1, got 0"):
        jax.block_until_ready(f(0))


def test_remat(path, case):
    def loss(x):
        y = jax.checkpoint(lambda x: bnkern.jax.batch_norm_train(x, weight=case.weight).y)(x)
        return (y * case.dy).sum()

    _, _, vjp = bnkern.batch_norm_vjp(case.x, weight=case.weight)
    assert same_bits(np.asarray(jax.jit(jax.grad(loss))(case.x)), vjp(case.dy).dx)


# ---------------------------------------------------------------- statistics as pytrees


def test_statistics_cross_jit_with_their_count(case):
    stats = jax.jit(bnkern.batch_stats)(jnp.asarray(case.x))
    assert type(stats) is bnkern.BatchStats
    assert stats.count == case.x.size // 5
    assert type(stats.count) is int
    assert len(jax.tree.leaves(stats)) == 2
    path, _ = jax.tree_util.tree_flatten_with_path(stats)[0][0]
    assert jax.tree_util.keystr(path) == ".mean"

    @jax.jit
    def use(stats, dy, x):
        dx = bnkern.batch_norm_backward(dy, x, stats).dx
        return dx, bnkern.update_running(stats, running_mean=jnp.zeros(5), running_var=jnp.ones(5)), stats + stats

    dx, (mean, _), twice = use(stats, jnp.asarray(case.dy), jnp.asarray(case.x))
    eager = bnkern.batch_norm_backward(jnp.asarray(case.dy), jnp.asarray(case.x), stats).dx
    assert same_bits(np.asarray(dx), np.asarray(eager))
    np.testing.assert_allclose(mean, 0.1 * np.asarray(stats.mean), rtol=1e-6)
    assert twice.count == 2 * stats.count
    doubled = jax.tree.map(lambda a: 2 * a, stats)
    assert doubled.count == stats.count


def test_a_traced_count(case):
    """Counts that only the program knows: merged, used in a running update and in a backward pass in parts."""
    x, dy = jnp.asarray(case.x), jnp.asarray(case.dy)
    exact = bnkern.batch_stats(x)
    old = jnp.full(5, 0.5), jnp.full(5, 2.0)

    @jax.jit
    def f(n, zero):
        part = bnkern.BatchStats(exact.mean, exact.var, n)
        nothing = bnkern.BatchStats(jnp.full(5, jnp.nan), jnp.full(5, jnp.inf), zero)
        merged = bnkern.merge_stats([nothing, part, part])
        new = bnkern.update_running(part, running_mean=old[0], running_var=old[1], momentum=n / n * 0.25)
        kept = bnkern.update_running(nothing, running_mean=old[0], running_var=old[1])
        sums = bnkern.backward_reduce(dy, x, part)
        return merged, new, kept, bnkern.backward_apply(dy, x, merged._replace(count=n), sums)

    merged, new, kept, dx = f(exact.count, 0)
    assert int(merged.count) == 2 * exact.count
    np.testing.assert_allclose(merged.mean, exact.mean, rtol=1e-6)
    np.testing.assert_allclose(merged.var, exact.var, rtol=1e-6)
    want = bnkern.update_running(exact, running_mean=old[0], running_var=old[1], momentum=0.25)
    for a, b in zip((*new, *kept), (*want, *old), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(dx, bnkern.batch_norm_backward(dy, x, exact).dx, rtol=1e-4, atol=1e-6)


def test_empty_batch(arrays):
    """y is empty, the running statistics stay, gradients are zero."""
    found, grad = jax.jit(
        lambda x, weight: (
            bnkern.jax.batch_norm_train(
                x, weight=weight, running_mean=arrays["running_mean"], running_var=arrays["running_var"]
            ),
            jax.grad(lambda w: bnkern.jax.batch_norm_train(x, weight=w).y.sum())(weight),
        )
    )(jnp.zeros((0, 5, 3)), arrays["weight"])
    assert found.y.shape == (0, 5, 3)
    assert found.stats.count == 0
    assert np.array_equal(found.running_mean, arrays["running_mean"])
    assert np.array_equal(grad, np.zeros(5))


# ---------------------------------------------------------------- one batch along a mapped axis


def test_axis_name_under_vmap(path, case):
    """The statistics are those of merge_stats, the gradient inside the mapped function that of the whole batch."""
    x, dy = case.x.reshape(2, 2, 5, 6, 3), case.dy.reshape(2, 2, 5, 6, 3)

    def loss(x, weight, dy):
        found = bnkern.jax.batch_norm_train(
            x, weight=weight, running_mean=case.bias, running_var=case.weight**2, axis_name="parts"
        )
        return (found.y * dy).sum(), found

    f = jax.vmap(jax.grad(loss, argnums=(0, 1), has_aux=True), in_axes=(0, None, 0), axis_name="parts")
    (dx, dweight), found = jax.jit(f)(x, case.weight, dy)
    merged = bnkern.merge_stats([bnkern.batch_stats(part) for part in x])
    running = bnkern.update_running(merged, running_mean=case.bias, running_var=case.weight**2)
    y, _, vjp = bnkern.batch_norm_vjp(case.x, weight=case.weight)
    want = vjp(case.dy)
    assert found.stats.count == merged.count
    for k in range(2):
        assert same_bits(np.asarray(found.stats.mean[k]), merged.mean.astype("float32"))
        assert same_bits(np.asarray(found.stats.var[k]), merged.var.astype("float32"))
        assert same_bits(np.asarray(found.running_mean[k]), running[0])
        assert same_bits(np.asarray(found.running_var[k]), running[1])
    np.testing.assert_allclose(found.y.reshape(y.shape), y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dx.reshape(y.shape), want.dx, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dweight.sum(0), want.dweight, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"axis_name: expected jax\.grad inside .* got it around jax\.vmap"):
        jax.grad(lambda x: jax.vmap(loss, in_axes=(0, None, 0), axis_name="parts")(x, case.weight, dy)[0].sum())(x)


@pytest.mark.parametrize("way", ["ffi", "callback", "array_api"])
def test_shard_map_over_two_devices(python, way):
    """Gradients around and inside, with and without JAX's check of what varies, second order, and without axis_name."""
    code = """
import jax, jax.numpy as jnp, numpy as np, bnkern, bnkern.jax
from functools import partial
from helpers import cases
from jax.sharding import PartitionSpec as P
assert bnkern.jax.chosen_path().path == WAY
mesh = jax.make_mesh((2,), ("parts",), axis_types=(jax.sharding.AxisType.Auto,))
case = cases.make((4, 6, 5), 1)
x, dy, w, b = map(jnp.asarray, (case.x, case.dy, case.weight, case.bias))
y, stats, vjp = bnkern.batch_norm_vjp(case.x, weight=case.weight, bias=case.bias, activation="relu")
grads = vjp(case.dy)
close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)

def sharded(x, w, b, dy, check=True):
    @partial(jax.shard_map, mesh=mesh, in_specs=(P("parts"), P(), P(), P("parts")),
             out_specs=(P(), (P("parts"), P(), P())), check_vma=check)
    def f(x, w, b, dy):
        o = bnkern.jax.batch_norm_train(
            x, weight=w, bias=b, running_mean=b, running_var=b * b, axis_name="parts", activation="relu")
        return jax.lax.psum((o.y * dy).sum(), "parts"), (o.y, o.stats.mean, o.running_mean)
    return f(x, w, b, dy)

for check in (True, False):
    f = jax.jit(jax.value_and_grad(partial(sharded, check=check), argnums=(0, 1, 2), has_aux=True))
    (_, (got, mean, running)), (dx, dw, db) = f(x, w, b, dy)
    for a, c in ((got, y), (mean, stats.mean), (dx, grads.dx), (dw, grads.dweight), (db, grads.dbias)):
        close(a, c)

second = jax.grad(lambda x: (jax.grad(lambda x: sharded(x, w, b, dy)[0])(x) ** 2).sum())
whole = jax.grad(lambda x: (jax.grad(
    lambda x: (bnkern.jax.batch_norm_train(x, weight=w, bias=b, activation="relu").y * dy).sum())(x) ** 2).sum())
close(second(x), whole(x), atol=1e-4)

inside = jax.shard_map(
    jax.grad(lambda x, dy: jax.lax.psum((bnkern.jax.batch_norm_train(x, axis_name="parts").y * dy).sum(), "parts")),
    mesh=mesh, in_specs=(P("parts"), P("parts")), out_specs=P("parts"))
close(inside(x, dy), bnkern.batch_norm_vjp(case.x)[2](case.dy).dx)

local = jax.shard_map(lambda x, w: bnkern.jax.batch_norm_train(x, weight=w).y,
                      mesh=mesh, in_specs=(P("parts"), P()), out_specs=P("parts"))
dw = jax.grad(lambda w: (local(x, w) * dy).sum())(w)
halves = [bnkern.batch_norm_vjp(a, weight=case.weight)[2](c) for a, c in zip(np.split(case.x, 2), np.split(case.dy, 2))]
close(dw, halves[0].dweight + halves[1].dweight)
still = jax.shard_map(lambda x, w: bnkern.jax.batch_norm_inference(x, running_mean=b, running_var=b * b, weight=w),
                      mesh=mesh, in_specs=(P("parts"), P()), out_specs=P("parts"))
dw = jax.grad(lambda w: (still(x, w) * dy).sum())(w)
given = case.bias, case.bias**2, None
close(dw, bnkern.batch_norm_backward(case.dy, case.x, given, weight=case.weight, frozen=True).dweight)
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu", "BNKERN_JAX": way}
    python(f"WAY = {way!r}\n{code}", env=environment, timeout=900)

"""Arrays that jax.jit splits over devices, on meshes whose axes belong to the types of arrays."""

import pytest
from helpers.libraries import of_framework

of_framework("jax")


@pytest.mark.parametrize("way", ["ffi", "callback"])
def test_a_mesh_with_explicit_axes(python, way):
    """What jax.make_mesh makes: results and gradients are placed like the operands, with the numbers of one device."""
    code = """
import jax, jax.numpy as jnp, numpy as np, bnkern, bnkern.jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from helpers import cases
mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)
case = cases.make((4, 6, 5), 1)
plain = {name: jnp.asarray(getattr(case, name)) for name in ("x", "weight", "bias", "residual")}
where = {"x": P("i", "j"), "weight": P("j"), "bias": P(), "residual": P("i")}
split = {name: jax.device_put(a, NamedSharding(mesh, where[name])) for name, a in plain.items()}

def train(a):
    found = bnkern.jax.batch_norm_train(**a, running_mean=a["bias"], running_var=a["weight"] ** 2, activation="relu")
    return found.y, found.running_mean, found.running_var

def inference(a):
    given = {"running_mean": a["bias"], "running_var": a["weight"] ** 2}
    return bnkern.jax.batch_norm_inference(**a, **given)

def first(a):
    return jax.grad(lambda a: (train(a)[0] ** 3).sum())(a), jax.grad(lambda a: (inference(a) ** 3).sum())(a)

def second(a):
    return jax.grad(lambda a: sum((g ** 2).sum() for g in jax.tree.leaves(first(a))))(a)

def statistics(a):
    return jax.grad(lambda x: bnkern.batch_stats(x).mean.sum() + (bnkern.batch_stats(x).var ** 2).sum())(a["x"])

def backward(a):
    sums = bnkern.backward_reduce(a["residual"], a["x"], bnkern.batch_stats(a["x"]))
    return bnkern.backward_apply(a["residual"], a["x"], bnkern.batch_stats(a["x"]), sums)

for f in (train, inference, first, second, statistics, lambda a: jax.vmap(first)(jax.tree.map(lambda v: v[None], a))):
    want = jax.jit(f)(plain)
    with jax.set_mesh(mesh):
        for way in (f, jax.jit(f)):
            got = way(split)
            jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-3), got, want)
with jax.set_mesh(mesh):
    np.testing.assert_allclose(jax.jit(backward)(split), backward(plain), atol=1e-5)
    assert train(split)[0].sharding.spec == P("i", "j", None)
    for grads in first(split):
        for name, g in grads.items():
            assert g.sharding.is_equivalent_to(split[name].sharding, g.ndim), name
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "BNKERN_JAX": way}
    python(code, env=environment, timeout=900)

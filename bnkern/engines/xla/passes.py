"""One call of the kernels inside a JAX program: what it is (`Spec`), and how it comes into the program (`compute`).

Three paths, the first that works here (`BNKERN_JAX` forces one):

ffi         a handler of XLA's foreign function interface calls the kernels without Python (bnkern.engines.xla.ffi)
callback    `jax.pure_callback`: XLA calls Python, which calls the kernels (bnkern.engines.xla.callback)
array_api   no kernels: jax.numpy by bnkern.engines.array_api. (bnkern.engines.xla.formula)

A float64 that JAX may not have (without `jax_enable_x64`) crosses a program as two uint32, its bits: dtype BITS. So
what the backward pass reads of the forward pass is exact in either mode. Under vmap every operand has leading axes, of
length 1 where it is not mapped, and one call goes through all elements in order.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import numpy as np

from bnkern._call import Call

BITS = "bits"
LIKE_X = ("x", "dy", "residual", "y", "out", "dresidual")
SCALARS = ("momentum", "num_batches", "count")

NAMES = (*LIKE_X, *SCALARS, "mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat", "running_mean", "running_var")

# What a Spec is of: passes over x; statistics of parts merged; sums of parts added.
PASSES, MERGE, ADD = range(3)
KINDS = {"PASSES": PASSES, "MERGE": MERGE, "ADD": ADD}
OF_PARTS = {MERGE: ("mean", "var"), ADD: ("sum_dy", "sum_dy_xhat")}  # operands that have an axis of parts first


class Spec(NamedTuple):
    """Everything about a call that is known when it is traced; hashable."""

    kind: int = PASSES
    passes: int = 0
    axis: int = 0
    ndim: int = 0  # of x, without axes of vmap
    eps: float = 0.0
    activation: int = 0
    parameter: float = 0.0
    count: int = 0  # type: ignore[assignment]  # values per channel that the statistics stand for; of one part in MERGE
    frozen: bool = False
    dresidual: bool = False
    momentum: float = 0.0  # where it is no operand, and num_batches is none
    correction: float = 1.0  # of the variance in the running update
    share: int = 1  # how many devices run this call at the same time, on the processors of one
    operands: tuple[str, ...] = ()
    results: tuple[tuple[str, str], ...] = ()  # (name, dtype or BITS)
    path: str = ""


def rank(spec: Spec, name: str, dtype: Any) -> int:
    """The number of axes of an operand without those of vmap."""
    if name in LIKE_X:
        return spec.ndim
    if name in SCALARS:
        return 0
    of_vector = 2 if str(dtype) == "uint32" else 1
    return of_vector + (name in OF_PARTS.get(spec.kind, ()))


def of_call(call: Call, **more: Any) -> Spec:
    """The Spec of a Call's problem."""
    p = call.problem
    return Spec(
        passes=call.passes, axis=p.axis, ndim=len(p.shape), eps=p.eps, activation=p.activation,
        parameter=p.parameter, count=p.count, **more,
    )  # fmt: skip


def compute(spec: Spec, operands: dict[str, Any], results: list[tuple[str, str]], channels: int) -> list[Any]:
    """The results of a call, in the order asked for. Operands that are None are left out."""
    given = {name: a for name, a in operands.items() if a is not None}
    spec = spec._replace(operands=tuple(given), results=tuple(results), share=_devices())
    return _lowered(spec, channels, *given.values())


@partial(jax.jit, static_argnums=(0, 1), inline=True)  # so that an eager call is compiled once, and no more
def _lowered(spec: Spec, channels: int, *arrays: Any) -> list[Any]:
    model = next((a for name, a in zip(spec.operands, arrays, strict=True) if name in LIKE_X), None)
    shapes = [_result(name, dtype, channels, model) for name, dtype in spec.results]
    axes = frozenset().union(*map(varying, arrays))
    arrays = tuple(as_varying(a, axes) for a in arrays)
    way = import_module(f"bnkern.engines.xla.{spec.path}")
    found = [as_varying(a, axes) for a in way.call(spec, shapes, arrays)]
    mesh = next(filter(None, map(placement, arrays)), None)
    if mesh is None:
        return found
    given = dict(zip(spec.operands, arrays, strict=True))
    everywhere = mesh.update(spec=jax.sharding.PartitionSpec())
    wheres = (placement(_twin_of(name, given)) or everywhere for name, _ in spec.results)
    return [jax.sharding.reshard(a, where) for a, where in zip(found, wheres, strict=True)]


def _twin_of(name: str, given: dict[str, Any]) -> Any:
    """The operand that a result is placed like, on a mesh with explicit axes: x, or the old running statistics."""
    names = LIKE_X if name in LIKE_X else (name,) if name.startswith("running") else ()
    return next((given[n] for n in names if n in given), None)


def placement(a: Any) -> Any:
    """The sharding that belongs to an array's type: where its mesh has explicit axes. None elsewhere."""
    sharding = getattr(jax.typeof(a), "sharding", None) if a is not None else None
    return sharding if getattr(getattr(sharding, "mesh", None), "explicit_axes", ()) else None


def placed(a: Any, sharding: Any) -> Any:
    """The array with this sharding in its type; as it is where the type has none."""
    return a if sharding is None or jax.typeof(a).sharding == sharding else jax.sharding.reshard(a, sharding)


def _result(name: str, dtype: str, channels: int, model: Any) -> Any:
    if name in LIKE_X:
        return jax.ShapeDtypeStruct(model.shape, model.dtype)
    if dtype == BITS:
        return jax.ShapeDtypeStruct((channels, 2), np.uint32)
    return jax.ShapeDtypeStruct((channels,), jax.numpy.dtype(dtype))


def varying(a: Any) -> frozenset[Any]:
    """The axes of a shard_map along which an array may differ from device to device."""
    aval = jax.typeof(a)
    kind = getattr(aval, "manual_axis_type", None)
    return kind.varying if kind is not None else getattr(aval, "vma", frozenset())


def as_varying(a: Any, axes: frozenset[Any]) -> Any:
    """The array, said to differ along all of these axes; JAX then adds up its gradient over the devices."""
    missing = tuple(axes - varying(a))
    return jax.lax.pcast(a, missing, to="varying") if missing else a


def on_every_device(a: Any) -> Any:
    """The array whole on every device, as the kernels see it: the formulas index it, which no split axis bears."""
    sharding = placement(a)
    return a if sharding is None else placed(a, sharding.update(spec=jax.sharding.PartitionSpec(*[None] * a.ndim)))


def alike(a: dict[str, Any]) -> dict[str, Any]:
    """Inside shard_map: parameters that are the same everywhere are told to be used by each part on its own.

    The gradient of each part is then that of the part, and JAX adds them up where the parameter came from.
    """
    axes = frozenset().union(*(varying(a[name]) for name in ("x", "dy", "residual") if name in a))
    names = ("x", "dy", "y", "residual", "weight", "bias", "mean", "var", "sum_dy", "sum_dy_xhat")
    return {name: as_varying(value, axes) if name in names else value for name, value in a.items()}


def in_shard_map() -> bool:
    """Whether what is traced is one device's part of a program."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh is not None and not mesh.empty and bool(mesh.manual_axes)


def _devices() -> int:
    """How many devices of this machine run the program that is traced, side by side: those of a shard_map."""
    if not in_shard_map():
        return 1
    return max(1, min(jax.sharding.get_abstract_mesh().size, jax.local_device_count("cpu")))

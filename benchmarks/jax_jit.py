"""bnkern.jax against the same layer in jax.numpy, both under jax.jit: training, inference, value_and_grad.

    python -P benchmarks/jax_jit.py [--seconds 2] [--markdown FILE]

Each row alternates the two in one process (and bnkern on NumPy arrays without JAX, as the distance to the kernels);
medians. jax.numpy's layer is what Flax does: E[x^2] - E[x]^2 in one sweep; `two-pass` is the stable one. Results are
fresh arrays each time, as JAX has them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bnkern
import bnkern.jax

SHAPES = [  # all of 16 MB and more in float32
    ((32, 64, 56, 56), 1), ((32, 256, 56, 56), 1), ((32, 56, 56, 64), -1), ((32, 56, 56, 256), -1), ((65536, 128), -1),
]  # fmt: skip
EPS = 1e-5


def _spread(v, x, axis):
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return v.reshape(shape)


def plain(x, weight, bias, mean, var, axis):
    scale = weight * jax.lax.rsqrt(var + EPS)
    wide = x.astype(jnp.float32)
    return ((wide - _spread(mean, x, axis)) * _spread(scale, x, axis) + _spread(bias, x, axis)).astype(x.dtype)


def plain_train(x, weight, bias, running_mean, running_var, axis):
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    wide = x.astype(jnp.float32)
    mean = wide.mean(others)
    var = jnp.maximum(0.0, (wide**2).mean(others) - mean**2)
    y = plain(x, weight, bias, mean, var, axis)
    return y, 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var


def two_pass_train(x, weight, bias, running_mean, running_var, axis):
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean, var = x.astype(jnp.float32).mean(others), x.astype(jnp.float32).var(others)
    y = plain(x, weight, bias, mean, var, axis)
    return y, 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var


def ours_train(x, weight, bias, running_mean, running_var, axis):
    o = bnkern.jax.batch_norm_train(
        x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var, axis=axis
    )
    return o.y, o.running_mean, o.running_var


def ours_inference(x, weight, bias, mean, var, axis):
    return bnkern.jax.batch_norm_inference(
        x, running_mean=mean, running_var=var, weight=weight, bias=bias, axis=axis, eps=EPS
    )


def with_gradient(train, axis):
    def loss(x, weight, bias, mean, var, dy):
        y, *running = train(x, weight, bias, mean, var, axis)
        return (y * dy).sum(dtype=jnp.float32), running

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def with_given_dy(train, axis):
    """Forward and backward with dy from elsewhere, as in the middle of a network: no loss to compute."""

    def both(x, weight, bias, mean, var, dy):
        y, pull, running = jax.vjp(lambda *a: _split(train(*a, mean, var, axis)), x, weight, bias, has_aux=True)
        return y, pull(dy), running

    return jax.jit(both)


def _split(results):
    y, *running = results
    return y, running


def operations(shape, axis, dtype):
    """For each operation: a function without arguments for each way to compute it."""
    rng = np.random.default_rng(0)
    c = shape[axis]
    x, dy = (jnp.asarray(rng.standard_normal(shape, dtype=np.float32)).astype(dtype) for _ in range(2))
    arrays = x, jnp.full(c, 1.5), jnp.ones(c), jnp.zeros(c), jnp.ones(c)
    xn, weight, bias, mean, var = (np.array(a) for a in arrays)
    dyn = np.asarray(dy)
    how = {"weight": weight, "bias": bias, "axis": axis, "eps": EPS}
    trains = {"ours": ours_train, "jnp": plain_train, "two-pass": two_pass_train}
    inferences = {"ours": ours_inference, "jnp": plain}

    def forward(functions):
        return {name: partial(jax.jit(partial(f, axis=axis)), *arrays) for name, f in functions.items()}

    def kernels_train():
        return bnkern.batch_norm_train(xn, running_mean=mean, running_var=var, **how)

    def kernels_both():
        y, _, vjp = bnkern.batch_norm_vjp(xn, running_mean=mean, running_var=var, **how)
        return y, vjp(dyn)

    def kernels_inference():
        return bnkern.batch_norm_inference(xn, running_mean=mean, running_var=var, **how)

    return {
        "train": forward(trains) | {"kernels": kernels_train},
        "inference": forward(inferences) | {"kernels": kernels_inference},
        "value_and_grad": {name: partial(with_gradient(f, axis), *arrays, dy) for name, f in trains.items()},
        "forward + vjp": {name: partial(with_given_dy(f, axis), *arrays, dy) for name, f in trains.items()}
        | {"kernels": kernels_both},
    }


def median_times(functions, seconds):
    """Median of each, calls alternating, after one of each that compiles."""
    for call in functions.values():
        jax.block_until_ready(call())
    times = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def rows(seconds, dtypes, ops):
    for dtype in dtypes:
        for shape, axis in SHAPES:
            for op, functions in operations(shape, axis, dtype).items():
                if op in ops:
                    yield dtype, shape, axis, op, median_times(functions, seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2, help="for each row")
    parser.add_argument("--dtypes", default="float32", help="comma-separated")
    parser.add_argument("--ops", default="train,inference,value_and_grad,forward + vjp")
    parser.add_argument("--markdown", type=Path, help="append the table to this file")
    args = parser.parse_args()
    threads, path = bnkern.get_num_threads(), bnkern.jax.chosen_path().path
    head = f"jax {jax.__version__}, {platform.machine()}, {threads} threads, path {path}; ms, medians"
    names = "dtype", "shape, axis", "op", "bnkern.jax", "jax.numpy", "two-pass", "bnkern on NumPy", "times faster"
    lines = [head, "", f"| {' | '.join(names)} |", "|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for dtype, shape, axis, op, t in rows(args.seconds, args.dtypes.split(","), args.ops.split(",")):
        ms = [f"{1e3 * t[name]:.2f}" if name in t else "-" for name in ("ours", "jnp", "two-pass", "kernels")]
        where = f"{'x'.join(map(str, shape))}, {axis}"
        lines.append(f"| {dtype} | {where} | {op} | {' | '.join(ms)} | {t['jnp'] / t['ours']:.1f} |")
        print(lines[-1], flush=True)
    if args.markdown:
        with args.markdown.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

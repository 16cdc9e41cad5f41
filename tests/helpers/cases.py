"""The problems that the tests share: shapes, arrays, memory layouts, and a function that runs everything.

Plain module without pytest, so that a fresh process can import it too (`print(cases.fingerprints(...))`).
"""

import hashlib
from dataclasses import dataclass, replace

import ml_dtypes  # noqa: F401  # makes np.dtype("bfloat16") known
import numpy as np

import bnkern

# Around every power of two a vector, a row of lanes or a block may have.
SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 255, 256, 257, 2047, 2048, 2049, 4097]
WIDE = ["float32", "float64"]
DTYPES = [*WIDE, "float16", "bfloat16"]
PAIRS = [(x, v) for x in DTYPES for v in dict.fromkeys([*WIDE, x])]  # of x and of what is per channel

# (shape, axis): both layout paths, every kind of split over threads, and sizes that leave a rest everywhere.
SMALL = [
    ((2, 3), 1),
    ((7, 5), 0),
    ((60, 100), -1),
    ((3, 17, 5), 1),
    ((4, 9, 31), -1),
    ((2, 3, 7, 7), 1),
    ((2, 7, 7, 33), -1),
    ((3, 4, 5, 6), 2),
    ((2, 3, 2, 3, 5), 1),
    ((2, 3, 2, 2, 3, 2), 4),
]
LAID_OUT = [((4, 7, 5, 9), 1), ((4, 5, 9, 7), -1), ((3, 5, 6, 23), 1)]  # to be laid out in every memory order
LARGE = [  # above the size from which a second thread pays
    ((4, 16, 46, 47), 1),  # one channel does not fill a block
    ((1, 1, 300_007), 1),  # all threads inside one channel
    ((300_007, 1), 1),  # the same, channels last
    ((2, 3, 217, 219), 1),  # few channels, odd rows
    ((3, 28, 28, 65), -1),  # channels last with a rest
    ((33, 70, 7, 7), 1),  # short rows
    ((300, 6, 17), 1),  # rows that end in every lane
    ((130, 300), -1),  # groups of channels, a rest in each
    ((9, 8192), 1),  # many channels, few values
    ((4097, 37), -1),
    ((5, 9000, 3), 1),
]
HUGE = [  # 9 MB in float32: written past the caches
    ((3, 5, 391, 397), 1),
    ((34, 1400, 7, 7), 1),
    ((29_000, 77), -1),
    ((2_201, 1_027), -1),  # coefficients in two parts, the second one shorter than a cache line
    ((201, 11_300), -1),
]

EVERY_AXIS = [((5, 4, 3, 2, 3, 4)[:rank], axis) for rank in range(2, 7) for axis in [*range(rank), *range(-rank, 0)]]
SIZED = {  # one size, in every role
    "inner": lambda size: ((3, 2, size), 1),
    "channels": lambda size: ((3, size), 1),
    "channels-first-channels": lambda size: ((2, size, 3), 1),
    "rows": lambda size: ((size, 5), -1),
    "rows-of-one": lambda size: ((size, 1), 1),
    "channels-last-channels": lambda size: ((2, 2, size), -1),
    "outer": lambda size: ((size, 2, 3), 1),
}


@dataclass(frozen=True)
class Case:
    """One problem with everything that a call may want."""

    x: np.ndarray
    dy: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    residual: np.ndarray
    axis: int

    @property
    def channels(self):
        return self.x.shape[self.axis]

    def map(self, move):
        """The same logical problem with x, dy and residual elsewhere in memory."""
        return replace(self, x=move(self.x), dy=move(self.dy), residual=move(self.residual))


def make(shape, axis, dtype="float32", seed=0):
    """Normal values, each channel with a mean and a spread of its own, so that roundings do happen."""
    rng = np.random.default_rng([seed, *shape, axis % len(shape)])
    column = [1] * len(shape)
    column[axis] = shape[axis]
    mean, spread = 3 * rng.standard_normal(column), rng.uniform(0.3, 3, column)
    x = rng.standard_normal(shape) * spread + mean
    dy, residual = rng.standard_normal((2, *shape))
    weight, bias = rng.uniform(0.5, 2, shape[axis]), rng.standard_normal(shape[axis])
    weight[::3] *= -1
    return Case(*(a.astype(dtype) for a in (x, dy, weight, bias, residual)), axis)


def label(value):
    """A short name of a test's parameter: 3x17x5 for a shape."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def name(shape, axis, dtype):
    return f"{label(shape)} axis {axis} {dtype}"


# ---------------------------------------------------------------- the same array elsewhere in memory


def place(a, offset, line=64):
    """A C-ordered copy of `a` whose data begin `offset` bytes after the start of a cache line."""
    raw = np.empty(a.nbytes + 2 * line, np.uint8)
    start = -raw.ctypes.data % line + offset
    copy = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    assert a.size == 0 or copy.ctypes.data % line == offset % line
    return copy


def spread_out(a):
    """Every second element of a buffer of NaN, in every dimension: reading a neighbour is seen."""
    buffer = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = buffer[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def backwards(a):
    """Negative strides in every dimension."""
    flip = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[flip])[flip]


def channels_last_memory(a):
    """Memory in the order N, spatial, C, as torch's channels_last: the logical shape is that of `a`."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def row_padded(a):
    """Rows followed by a gap, as a crop of a larger image has."""
    buffer = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
    buffer[..., : a.shape[-1]] = a
    return buffer[..., : a.shape[-1]]


LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "strided": spread_out,
    "backwards": backwards,
    "channels-last-memory": channels_last_memory,
    "row-padded": row_padded,
}


# ---------------------------------------------------------------- run it


def everything(case, *, out=lambda like: None):
    """All functions on one case; every result by name. `out` makes the array to write to, or None."""
    x, dy, w, b, r, axis = case.x, case.dy, case.weight, case.bias, case.residual, case.axis
    running_mean, running_var = np.zeros_like(w), np.ones_like(w)
    result = {}

    y, stats = bnkern.batch_norm_train(
        x, weight=w, bias=b, running_mean=running_mean, running_var=running_var, axis=axis, out=out(x)
    )
    result |= {
        "y": y,
        "mean": stats.mean,
        "var": stats.var,
        "running_mean": running_mean,
        "running_var": running_var,
    }
    result["bare y"], _ = bnkern.batch_norm_train(x, axis=axis, out=out(x))
    result["inference y"] = bnkern.batch_norm_inference(
        x, running_mean=running_mean, running_var=running_var, weight=w, bias=b, axis=axis, out=out(x)
    )
    result["relu y"], _ = bnkern.batch_norm_train(x, weight=w, bias=b, axis=axis, activation="relu", out=out(x))
    fused = {"axis": axis, "activation": "relu"}
    result["residual y"], _ = bnkern.batch_norm_train(x, weight=w, bias=b, residual=r, out=out(x), **fused)

    variants = {
        "": {},
        "frozen ": {"frozen": True},
        "relu ": {"activation": "relu"},
        "residual ": {
            "activation": "relu",
            "y": result["residual y"],
            "needs": ("x", "weight", "bias", "residual"),
        },
    }
    for key, options in variants.items():
        grads = bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, axis=axis, out=out(x), **options)
        result |= {key + field: value for field, value in grads._asdict().items() if value is not None}
    sums = bnkern.backward_reduce(dy, x, stats, weight=w, bias=b, **fused)
    result |= sums._asdict()
    result["applied dx"] = bnkern.backward_apply(dy, x, stats, sums, weight=w, bias=b, out=out(x), **fused)
    return result


def essentials(case, *, out=lambda like: None):
    """Training forward and backward alone, with ReLU and residual: for large arrays."""
    w, b, how = case.weight, case.bias, {"axis": case.axis, "activation": "relu"}
    y, stats = bnkern.batch_norm_train(case.x, weight=w, bias=b, residual=case.residual, out=out(case.x), **how)
    how |= {"y": y, "needs": ("x", "weight", "bias", "residual")}
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=w, bias=b, out=out(case.x), **how)
    return {"y": y, "mean": stats.mean, "var": stats.var, **grads._asdict()}


def of_nan(like):
    """An output array whose every element must be written to make a right result."""
    return np.full_like(like, np.nan)


def sha(results):
    """One SHA over names, dtypes, shapes and bits."""
    digest = hashlib.sha256()
    for key in sorted(results):
        value = np.asarray(results[key])
        digest.update(f"{key} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())  # in logical order, whatever the memory
    return digest.hexdigest()


def fingerprints(problems, dtypes=DTYPES, results=everything):
    """{case: SHA of the results} over a list of (shape, axis)."""
    return {
        name(shape, axis, dtype): sha(results(make(shape, axis, dtype))) for shape, axis in problems for dtype in dtypes
    }


if __name__ == "__main__":
    found = fingerprints([*SMALL, *LARGE])
    print(len(found), "cases", hashlib.sha256("".join(found.values()).encode()).hexdigest())

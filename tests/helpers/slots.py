"""The kernels' tables from Python: every slot of every (storage type, level), callable on NumPy arrays, alone.

A mirror of src/kernels/kernels.h. Arrays are handed over as they are: nothing is checked, and a wrong size or
stride reads or writes what it should not.
"""

from ctypes import CFUNCTYPE, POINTER, Structure, c_double, c_int, c_int64, c_void_p

import ml_dtypes  # makes np.dtype("bfloat16") known, too
import numpy as np

from bnkern._native import kernels
from helpers.activations import RULES, number_and_parameter

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.dtype("bfloat16")}
LANES, SUB, BLOCK, GROUP, PAD, FLAT = 16, 256, 2048, 2048, 16, 64
MEAN_HI, SCALE, SHIFT, MEAN_DY, SLOPE, INVSTD, OFFSET, ROWS_OF_COEFS = range(8)
TILE, STREAM, FROZEN = 1, 2, 4
IDENTITY = 0
ACTIVATIONS = {"identity": (IDENTITY, 0.0), **{name: number_and_parameter(name) for name in RULES}}
SUMS_BYTES = 448


class Span(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "dy", "residual", "y", "out", "dresidual")),
        *((name, c_int64) for name in ("xs", "dys", "residuals", "ys", "outs", "dresiduals")),
        *((name, c_int64) for name in ("rows", "channels", "width")),
        ("coef", c_void_p),
        ("cs", c_int64),
        ("prefetch", c_int64),
        ("flags", c_int),
        ("activation", c_int),
        ("parameter", c_double),
    ]


class Run(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "dy", "y")),
        *((name, c_int64) for name in ("xc", "dyc", "yc", "channels", "at", "n")),
        ("coef", c_void_p),
        ("cs", c_int64),
        ("flags", c_int),
        ("activation", c_int),
        ("parameter", c_double),
    ]


class Parts(Structure):
    _fields_ = [
        ("a", c_void_p),
        ("b", c_void_p),
        *((name, c_int64) for name in ("next_block", "next_channel", "blocks", "channels", "count")),
    ]


def slot(*arguments, result=None):
    return CFUNCTYPE(result, *arguments)


SPAN, RUN, PARTS, POINTER_, SIZE = POINTER(Span), POINTER(Run), POINTER(Parts), c_void_p, c_int64


class Table(Structure):
    _fields_ = [
        ("itemsize", c_int),
        ("arithsize", c_int),
        ("moments_begin", slot(POINTER_, POINTER_, SIZE)),
        ("moments_add", slot(POINTER_, RUN)),
        ("moments_end", slot(POINTER_, SIZE, POINTER_, POINTER_, result=c_int)),
        ("moments_two_pass", slot(POINTER_, SIZE, POINTER_, POINTER_)),
        ("moments_cl", slot(SPAN, POINTER_, POINTER_, POINTER_)),
        ("reduce_add", slot(POINTER_, RUN)),
        ("reduce_end", slot(POINTER_, SIZE, POINTER_, POINTER_)),
        ("reduce_cl", slot(SPAN, POINTER_, POINTER_, POINTER_)),
        ("normalise", slot(SPAN)),
        ("input_grad", slot(SPAN)),
        ("merge_moments", slot(PARTS, POINTER_, POINTER_)),
        ("merge_sums", slot(PARTS, POINTER_, SIZE, POINTER_, POINTER_)),
        ("coefs_forward", slot(POINTER_, SIZE, SIZE, POINTER_, POINTER_, c_double, POINTER_, POINTER_)),
        ("coefs_backward", slot(POINTER_, SIZE, SIZE, POINTER_, POINTER_, c_double)),
        ("coefs_tile", slot(POINTER_, SIZE, POINTER_, SIZE, c_int, SIZE, SIZE, SIZE, SIZE)),
        ("stream_copy", slot(SPAN)),
        ("stream_triad", slot(SPAN)),
    ]


def table(dtype, level):
    """The kernels of a storage type ("f32") and a level ("x86_v3", "reference")."""
    return Table.from_address(kernels.table(dtype, level))


def arithmetic(dtype):
    return np.float64 if dtype == "f64" else np.float32


# ---------------------------------------------------------------- memory


def aligned(size, dtype, offset=0, fill=0x5A):
    """`size` elements that begin `offset` elements after a cache line does; a cache line of pattern at both sides."""
    dtype = np.dtype(dtype)
    buffer = np.full(size * dtype.itemsize + 256, fill, np.uint8)
    start = -buffer.ctypes.data % 64 + 64 + offset * dtype.itemsize
    return buffer[start : start + size * dtype.itemsize].view(dtype)


def surroundings_intact(a, fill=0x5A):
    """Is what `aligned` laid around the array still there?"""
    buffer, start = a.base, a.ctypes.data - a.base.ctypes.data
    return (buffer[:start] == fill).all() and (buffer[start + a.nbytes :] == fill).all()


def copy(a, offset=0):
    to = aligned(a.size, a.dtype, offset)
    to[...] = a.ravel()
    return to


def address(a):
    return None if a is None else a.ctypes.data


def scratch(width, rows):
    """bn_columns_scratch."""
    flat = LANES * min(width, FLAT)
    columns = max(width, flat) + PAD
    return aligned(2 * 8 * width + 2 * LANES * width + ROWS_OF_COEFS * columns + rows, np.float64)


def coefs_of(dtype, channels, rng):
    """A table of coefficients, [7][channels + PAD], of values that are ordinary for the data that `numbers` makes."""
    values = rng.standard_normal((ROWS_OF_COEFS, channels + PAD)).astype(arithmetic(dtype))
    values[INVSTD] = abs(values[INVSTD]) + 0.5
    values[[MEAN_DY, SLOPE, OFFSET]] *= 0.1
    return copy(values).reshape(values.shape)


def numbers(dtype, size, rng, special=False):
    """Normal values; with `special` also zeros of both signs, NaN, Inf, subnormals and the largest."""
    a = rng.standard_normal(size).astype(DTYPES[dtype])
    if special:
        info = ml_dtypes.finfo(DTYPES[dtype])
        odd = [0.0, -0.0, np.nan, np.inf, -np.inf, float(info.smallest_subnormal), float(info.max)]
        places = rng.integers(0, size, max(1, size // 9))
        a[places] = np.array(odd)[rng.integers(0, len(odd), len(places))].astype(DTYPES[dtype])
    return a


def bits(a):
    """The bytes of an array with every NaN alike: which NaN comes out of two is the processor's choice."""
    a = np.ascontiguousarray(a)
    wide = a.astype(np.float64)
    if np.isnan(wide).any():
        a = np.where(np.isnan(wide), np.array(np.nan, a.dtype), a)
    return a.tobytes()


# ---------------------------------------------------------------- slots on arrays


def moments_cf(t, x, cuts):
    """A channel's block x, run by run: (sound, mean, M2)."""
    z, out = aligned(SUMS_BYTES, np.uint8), np.zeros(2)
    mean, m2 = address(out), address(out) + 8
    t.moments_begin(address(z), address(x), len(x))
    for at, n, where in cuts:
        t.moments_add(address(z), Run(x=address(where), channels=1, at=at, n=n))
    sound = t.moments_end(address(z), len(x), mean, m2)
    if not sound:
        t.moments_two_pass(address(x), len(x), mean, m2)
    return sound, out


def reduce_cf(t, n, cuts, coef, activation):
    """A channel's block, runs of (at, n, x, dy, y or None): (sum dy, sum dy * xhat)."""
    z, out = aligned(SUMS_BYTES, np.uint8, fill=0), np.zeros(2)
    number, parameter = activation
    for at, length, x, dy, y in cuts:
        run = Run(x=address(x), dy=address(dy), y=address(y), channels=1, at=at, n=length, coef=address(coef))
        run.cs, run.activation, run.parameter = coef.shape[1], number, parameter
        t.reduce_add(address(z), run)
    t.reduce_end(address(z), n, address(out), address(out) + 8)
    return out


def columns(t, rows, width, x, dy=None, y=None, coef=None, activation=(IDENTITY, 0.0), strides=None):
    """moments_cl of x, or reduce_cl with dy: two results for each column."""
    xs, dys, ys = strides or (width,) * 3
    out, room = np.zeros((2, width)), scratch(width, rows)
    span = Span(x=address(x), xs=xs, rows=rows, channels=1, width=width)
    if dy is None:
        t.moments_cl(span, address(out), address(out[1]), address(room))
        return out
    span.dy, span.dys, span.y, span.ys = address(dy), dys, address(y), ys
    span.coef, span.cs = address(coef), coef.shape[1]
    span.activation, span.parameter = activation
    t.reduce_cl(span, address(out), address(out[1]), address(room))
    return out


def elementwise(call, operands, out, dresidual, coef, *, rows, channels, width, stride, flags, activation, prefetch=0):
    """normalise or input_grad of a table, on operands {"x": array, ...} whose rows lie `stride` elements apart."""
    number, parameter = activation
    span = Span(rows=rows, channels=channels, width=width, coef=address(coef), cs=coef.shape[1])
    span.flags, span.activation, span.parameter, span.prefetch = flags, number, parameter, prefetch
    for name, a in {**operands, "out": out, "dresidual": dresidual}.items():
        setattr(span, name, address(a))
        setattr(span, name + "s", stride)
    call(span)

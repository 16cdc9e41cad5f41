"""Every float16 and bfloat16 number, and what is hard to round to one."""

import ml_dtypes  # noqa: F401  # makes np.dtype("bfloat16") known
import numpy as np

from helpers import native

HALF = ["float16", "bfloat16"]


def every_value(dtype):
    """All 65536 numbers there are, NaN with its quiet bit set."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # NumPy on ARM warns of a signalling NaN
        nan = np.isnan(bits.view(dtype).astype(np.float32))
    bits[nan] |= {"float16": 0x200, "bfloat16": 0x40}[dtype]
    return bits.view(dtype)


def hard_to_round(dtype):
    """float32 numbers: every value of the type, its neighbours in float32, the ties between two, and at random."""
    with np.errstate(all="ignore"):
        exact = every_value(dtype).astype(np.float32)
        exact = np.sort(exact[np.isfinite(exact)])
        ties = (exact[1:].astype(np.float64) + exact[:-1].astype(np.float64)) / 2
        numbers = np.concatenate([exact, ties, [65519.9, 65520, 1e30, 3.4e38, np.inf, -np.inf]])
        numbers = numbers.astype(np.float32)
        numbers = np.concatenate([numbers, np.nextafter(numbers, np.inf), np.nextafter(numbers, -np.inf)])
        anything = np.random.default_rng(0).integers(0, 1 << 32, 50_000, np.uint32).view(np.float32)
    return np.concatenate([numbers, anything[~np.isnan(anything)]])


def widened_and_narrowed(dtype):
    """Every value through a kernel and back, and hard cases through the store of one, as uint16."""
    zero, one, minus = np.zeros(1), np.ones(1), np.array([-0.0])  # minus: so that -0 + bias is -0
    x = every_value(dtype).reshape(1, 1, -1)
    through = native.run("normalise", x=x, mean=zero, var=one, bias=minus, eps=0.0)["out"]
    bias = hard_to_round(dtype)
    mean, var = np.zeros(len(bias)), np.ones(len(bias))
    x = np.full((1, len(bias), 17), -0.0, dtype)  # 16 lanes of a vector, and one over
    stored = native.run("normalise", x=x, mean=mean, var=var, bias=bias, eps=0.0)["out"]
    return {"through": through, "vector": stored[0, :, 3], "rest": stored[0, :, 16]}

"""Numbers for each channel: rounded once, whatever their type, stride and place, and whatever mode the caller is in."""

import ctypes
import ctypes.util
import platform
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import cases, native
from helpers.compare import same_bits

from bnkern._native import vectors


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    raw[...] = np.frombuffer(a.tobytes(), np.uint8)
    return raw.view(a.dtype)


# Lengths around a strip of numbers on the stack.
LENGTHS = [0, 1, 3, 63, 64, 65, 127, 128, 129, 300]
WAYS = {
    "gapless": lambda a: a,
    "every third": lambda a: np.repeat(a, 3)[::3],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "misaligned": misaligned,
}


def numbers(n, dtype, seed=0):
    with np.errstate(over="ignore"):
        return (np.random.default_rng(seed).standard_normal(n) * 10.0 ** np.arange(n)[::-1].clip(0, 30)).astype(dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("old", "new"), [(a, b) for a in cases.DTYPES for b in cases.DTYPES])
def test_cast_rounds_once(old, new, way):
    for n in LENGTHS:
        value = numbers(n, old)
        with np.errstate(over="ignore"):
            want = value.astype(np.float64).astype(new)
        if new in ("float16", "bfloat16") and old == "float64":
            continue  # test_half.py: ml_dtypes rounds these twice
        assert same_bits(vectors.cast(WAYS[way](value), np.dtype(new)), want), n


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", cases.WIDE)
def test_ema_update_is_the_formula_in_float64(dtype, way):
    for n in LENGTHS:
        before, value = numbers(n, dtype, 1), numbers(n, "f8", 2)
        running = WAYS[way](before.copy())
        with np.errstate(over="ignore"):
            want = ((1.0 - 0.3) * before.astype("f8") + 0.3 * (value * 1.25)).astype(dtype)
        assert vectors.ema_update(running, WAYS[way](value), 0.3, 1.25)
        assert same_bits(running, want), n


def test_cast_each_leaves_what_fits():
    a, b = np.ones(3), np.ones(3, "f4")
    found = vectors.cast_each(np.dtype("f4"), [a, None, b])
    assert found[1] is None
    assert found[2] is b
    assert found[0].dtype == np.float32
    assert vectors.cast_each(np.dtype("f4"), [a, [1.0]]) is None


# ---------------------------------------------------------------- the caller's floating-point mode

# What fenv_t of glibc holds: where the control word lies (in 32 bits), and its bits for subnormals and for rounding.
CONTROL = {"x86_64": (7, 0x8040, 0x6000), "aarch64": (0, 1 << 24, 3 << 22)}.get(platform.machine())


@contextmanager
def mode(bits):
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before, changed = (ctypes.c_uint32 * 16)(), (ctypes.c_uint32 * 16)()
    libm.fegetenv(before)
    libm.fegetenv(changed)
    changed[CONTROL[0]] |= bits
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(before)


needs_a_mode = pytest.mark.skipif(
    CONTROL is None or not hasattr(ctypes.CDLL(ctypes.util.find_library("m")), "fesetenv"),
    reason="where this processor's mode lies is not known here",
)


def tiny(dtype, n=65):
    """Subnormal numbers, and such as become subnormal."""
    return (np.random.default_rng(3).uniform(-9, 9, n) * float(np.finfo(dtype).tiny)).astype(dtype)


@needs_a_mode
@pytest.mark.parametrize("changed", [1, 2], ids=["flush to zero", "rounding towards zero"])
def test_the_callers_mode_changes_no_bit(changed):
    bits = CONTROL[changed]
    small, half = tiny("f4"), tiny("f2").astype("f8") / 7
    third = small.astype("f8") / 3
    x = np.stack([small, 3 * small, small / 2])  # all of it before the mode changes: NumPy obeys it

    def everything():
        updated = small.copy()
        vectors.ema_update(updated, third, 0.25, 1.0)
        found = native.run("train", x=x, weight=small, bias=small, eps=1e-30)
        return [
            updated,
            vectors.cast(third, np.dtype("f4")),
            vectors.cast(small, np.dtype("f8")),
            vectors.cast(half, np.dtype("f2")),
            *(found[name] for name in ("out", "mean", "var")),
        ]

    want = everything()
    with mode(bits):
        small_in_this_mode = np.float32(1e-38) * np.float32(0.1)
        found = everything()
    if changed == 1:
        assert small_in_this_mode == 0, "the mode was not set, and nothing was tested"
    assert [k for k, (a, b) in enumerate(zip(found, want, strict=True)) if not same_bits(a, b)] == []

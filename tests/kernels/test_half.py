"""float16 and bfloat16: conversions to the bit at every level, long sums, vectors of every dtype."""

import json

import ml_dtypes
import numpy as np
import pytest
from helpers import cases, native, support
from helpers.compare import LD, same_bits, units
from helpers.halves import HALF, every_value, hard_to_round, widened_and_narrowed

import bnkern
from bnkern._native import vectors


@pytest.mark.parametrize("dtype", HALF)
def test_conversions(dtype):
    got = widened_and_narrowed(dtype)
    assert same_bits(got["through"].ravel(), every_value(dtype))
    with np.errstate(all="ignore"):
        want = hard_to_round(dtype).astype(dtype)
    assert same_bits(got["vector"], want)
    assert same_bits(got["rest"], want)


CHILD = """
import json
from helpers import cases, halves
print(json.dumps([cases.sha(halves.widened_and_narrowed(dtype)) for dtype in halves.HALF]))
"""


@support.x86_only
def test_conversions_at_every_level(python, level):
    want = [cases.sha(widened_and_narrowed(dtype)) for dtype in HALF]
    assert json.loads(python(CHILD, env={"BNKERN_CPU": level}).stdout) == want


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
@pytest.mark.parametrize("dtype", HALF)
def test_a_nan_with_a_full_payload_stays_nan(dtype, bits, axis):
    """Rounding up what looks like the largest number would make it -0 or Inf."""
    case = cases.make((4, 19, 37), axis, dtype)
    vector = np.ones(case.channels, np.float32)
    vector.view(np.uint32)[::2] = bits
    plain = np.ones_like(vector)
    for mean, var, weight, bias in (np.roll([vector, plain, plain, plain], k, axis=0) for k in range(4)):
        y = bnkern.batch_norm_inference(case.x, running_mean=mean, running_var=var, weight=weight, bias=bias, axis=axis)
        nan = np.moveaxis(np.isnan(y.astype(np.float32)), axis, 0)
        assert nan[::2].all()
        assert not nan[1::2].any()


@pytest.mark.parametrize("dtype", HALF)
def test_a_float64_is_rounded_once(dtype):
    """Just above a tie: by way of float32 it would become the tie, and go down."""
    half_unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    values = np.array([1 + half_unit + 2.0**-50, 1 + half_unit, -1 - half_unit - 2.0**-50, 1e300, 1e-300, np.nan, -0.0])
    unit = 1 + 2 * half_unit
    want = np.array([unit, 1, -unit, np.inf, 0, np.nan, -0.0]).astype(dtype)
    assert same_bits(vectors.cast(values, np.dtype(dtype)), want)


@pytest.mark.parametrize("shape", [(2, 1, 1 << 24), (1 << 25, 1)])
@pytest.mark.parametrize("dtype", HALF)
def test_a_sum_over_2_to_the_25_values(dtype, shape):
    """0.1 as often as a float32 sum would stop growing: the mean is what the rounded 0.1 is."""
    x = np.full(shape, 0.1, dtype)
    x.reshape(-1)[::2] *= np.asarray(3, dtype)
    low, high = float(x.reshape(-1)[1]), float(x.reshape(-1)[0])
    mean, var, count = bnkern.batch_stats(x)
    assert count == 1 << 25
    assert mean[0] == pytest.approx((low + high) / 2, rel=1e-9)
    assert var[0] == pytest.approx(((high - low) / 2) ** 2, rel=1e-6)
    sums = bnkern.backward_reduce(x, x, (mean, var, count))
    assert sums.sum_dy[0] == pytest.approx((low + high) / 2 * count, rel=1e-9)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("axis", [1, -1])
def test_statistics_are_those_of_the_values_in_float32(dtype, axis):
    """Each 16-bit value is a float32 too: statistics, sums and coefficients are the same, y is rounded once more."""
    case = cases.make((5, 33, 17, 33), axis, dtype)
    wide = case.map(lambda a: a.astype(np.float32))
    y, stats = bnkern.batch_norm_train(case.x, weight=case.weight, bias=case.bias, axis=axis)
    want, want_stats = bnkern.batch_norm_train(
        wide.x, weight=case.weight.astype("f4"), bias=case.bias.astype("f4"), axis=axis
    )
    assert same_bits(stats.mean, want_stats.mean)
    assert same_bits(stats.var, want_stats.var)
    assert same_bits(y, want.astype(dtype))
    grads = bnkern.batch_norm_backward(case.dy, case.x, stats, weight=case.weight, axis=axis)
    want = bnkern.batch_norm_backward(wide.dy, wide.x, stats, weight=case.weight.astype("f4"), axis=axis)
    assert same_bits(grads.dx, want.dx.astype(dtype))
    assert grads.dweight.dtype == grads.dbias.dtype == np.dtype(dtype)
    assert units(grads.dbias, want.dbias.astype(LD), want.dbias.astype(LD)) <= 0.501


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_parameters_that_are_not_there_are_float32(dtype):
    case = cases.make((5, 7, 9), 1, dtype)
    grads = bnkern.batch_norm_backward(case.dy, case.x, bnkern.batch_stats(case.x))
    assert grads.dweight.dtype == grads.dbias.dtype == np.float32


def test_the_bits_of_bfloat16_in_uint16():
    """How an array of bfloat16 is lent by a library whose type NumPy does not know."""
    case = cases.make((5, 7, 9), 1, "bfloat16")
    operands = {"x": case.x, "weight": case.weight, "bias": case.bias}
    want = native.run("train", **operands)
    got = native.run("train", **{name: a.view(np.uint16) for name, a in operands.items()})
    assert got["out"].dtype == np.uint16
    assert all(got[name].tobytes() == want[name].tobytes() for name in ("out", "mean", "var"))


@pytest.mark.parametrize("dtype", ["uint16", "int16", ml_dtypes.float8_e4m3fn, ml_dtypes.int4])
def test_other_small_types_are_refused(dtype):
    with pytest.raises(TypeError, match="x: expected dtype float32 or float64 or float16 or bfloat16"):
        bnkern.batch_stats(np.zeros((4, 3), dtype))

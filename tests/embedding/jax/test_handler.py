"""The handler itself, called as anyone may call it: what makes no sense is an error, never a crash."""

import pytest
from helpers.libraries import of_framework

jax = of_framework("jax")

import bnkern.jax  # noqa: E402

FUZZ = """
import numpy as np, jax, bnkern.jax
from bnkern.engines.xla import ffi
from bnkern.engines.xla.passes import NAMES
assert ffi.missing() is None
rng = np.random.default_rng(0)
SHAPES = [(), (3,), (2, 3), (3, 2), (4, 3), (2, 4, 3), (1, 4, 3), (0, 3)]
DTYPES = ["float32", "float32", "float16", "uint32", "int32", "bfloat16"]
refused = 0
for _ in range(120):
    n, m = rng.integers(0, 5), rng.integers(1, 4)
    some = lambda: (SHAPES[rng.integers(len(SHAPES))], DTYPES[rng.integers(len(DTYPES))])
    arrays = [np.ones(shape, jax.numpy.dtype(dtype)) for shape, dtype in (some() for _ in range(n))]
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (some() for _ in range(m))]
    integers = [rng.integers(-1, 5), rng.integers(0, 16), *rng.integers(-1, 4, 3), rng.integers(-1, 9)]
    integers += [*rng.integers(0, 2, 3)]
    try:
        jax.block_until_ready(jax.ffi.ffi_call(ffi.TARGET, results)(
            *arrays, operands=rng.integers(-1, len(NAMES) + 1, n).astype(np.int32),
            results=rng.integers(-1, len(NAMES) + 1, m).astype(np.int32),
            integers=np.array(integers, np.int64), reals=np.array([1e-5, 0, 0.1, 1.0])))
    except Exception as error:
        assert "INVALID_ARGUMENT" in str(error) or "bnkern" in str(error), error
        refused += 1
print(refused)
"""


@pytest.mark.skipif(bnkern.jax.chosen_path().path != "ffi", reason=f"no handler: {bnkern.jax.chosen_path().why}")
def test_calls_that_make_no_sense(python):
    assert int(python(FUZZ, timeout=900).stdout) > 100

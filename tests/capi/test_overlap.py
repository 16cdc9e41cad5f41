"""The C API's own answers about memory, beside NumPy's, for random views of one buffer."""

import numpy as np
from helpers import c_api
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from bnkern.arrays.memory import folded

ITEM = 4
BUFFER = np.zeros(400, np.float32)


@st.composite
def views(draw, shape, negative=True):
    """A view of this shape of the buffer, with any strides that stay inside."""
    low = -30 if negative else 1
    strides = [draw(st.integers(low, 30)) for _ in shape]
    begin = sum(min(0, s) * (n - 1) for s, n in zip(strides, shape, strict=True))
    end = sum(max(0, s) * (n - 1) for s, n in zip(strides, shape, strict=True))
    start = draw(st.integers(-begin, max(-begin, 399 - end)))
    if start + end > 399:
        strides, start = [s // 8 for s in strides], 200
    return as_strided(BUFFER[start:], shape, [ITEM * s for s in strides])


@given(st.data())
def test_overlap_and_folding(data):
    shape = data.draw(st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4)))
    x, y = data.draw(views(shape)), data.draw(views(shape))
    status, words = c_api.perform("inference", c_api.request(
        x=x, y=y, running_mean=np.zeros(shape[1]), running_var=np.ones(shape[1])
    ))  # fmt: skip
    same = x.ctypes.data == y.ctypes.data and all(
        a == b for a, b, n in zip(x.strides, y.strides, shape, strict=True) if n > 1
    )
    if folded(y):
        assert status == c_api.BAD_STRIDES, words
    elif same or not np.shares_memory(x, y):
        assert status == c_api.OK, words
    else:
        assert status == c_api.OVERLAP, words

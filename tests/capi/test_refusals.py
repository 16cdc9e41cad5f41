"""What the C API refuses: each wrong argument has its status and its words, and nothing is written."""

import ctypes
import math

import numpy as np
import pytest
from helpers import c_api, cases
from helpers.c_api import (
    BAD_CALL,
    BAD_DEVICE,
    BAD_DTYPE,
    BAD_SHAPE,
    BAD_STRIDES,
    BAD_VALUE,
    MISSING,
    OK,
    OVERLAP,
    Tensor,
    tensor,
)

CASE = cases.make((4, 5, 6), 1)
FAR = 2**62


def given(operation):
    """A right call's arrays, fresh."""
    like, vector = (lambda: np.full((4, 5, 6), 7, np.float32)), (lambda: np.full(5, 7.0))
    x, dy, w = CASE.x.copy(), CASE.dy.copy(), np.ones(5)
    return {
        "train": lambda: {
            "x": x, "y": like(), "mean": vector(), "var": vector(), "weight": w, "residual": dy,
            "running_mean": vector(), "running_var": vector(),
        },
        "inference": lambda: {"x": x, "y": like(), "running_mean": w, "running_var": w + 1},
        "stats": lambda: {"x": x, "mean": vector(), "var": vector()},
        "backward": lambda: {
            "x": x, "dy": dy, "mean": w, "var": w + 1, "dx": like(), "dweight": vector(), "dbias": vector(),
            "dresidual": like(),
        },
        "reduce": lambda: {"x": x, "dy": dy, "mean": w, "var": w + 1, "sum_dy": vector(), "sum_dy_xhat": vector()},
        "apply": lambda: {
            "x": x, "dy": dy, "mean": w, "var": w + 1, "sum_dy": w, "sum_dy_xhat": w + 1, "dx": like(), "count": 24,
        },
        "update_running": lambda: {
            "mean": w, "var": w + 1, "running_mean": vector(), "running_var": vector(), "count": 24,
        },
    }[operation]()  # fmt: skip


def changed(a, **fields):
    """An array's tensor with other fields."""
    t = tensor(a)
    for name, value in fields.items():
        if isinstance(value, tuple):
            value = (ctypes.c_int64 * len(value))(*value)
        setattr(t, name, value)
    return t


X, V, Y = CASE.x, np.ones(5), np.full((4, 5, 6), 7, np.float32)
NO_SHAPE = ctypes.POINTER(ctypes.c_int64)()

# operation, what is given in place of the right thing, status, a part of the words
TABLE = [
    ("train", {"x": None}, MISSING, "x: expected an array, as train needs it"),
    ("train", {"y": None}, MISSING, "y: expected an array"),
    ("train", {"running_var": None}, MISSING, "running_var: expected an array (running_mean and"),
    ("train", {"running_mean": None}, MISSING, "running_mean: expected"),
    ("train", {"x": changed(X, data=None)}, MISSING, "x: expected memory"),
    ("train", {"x": changed(X, device_type=2)}, BAD_DEVICE, "got device_type 2"),
    ("train", {"weight": changed(V, device_type=3)}, BAD_DEVICE, "weight: expected memory of the CPU"),
    ("train", {"x": changed(X, code=0)}, BAD_DTYPE, "x: expected float32, float64"),
    ("train", {"x": changed(X, bits=8)}, BAD_DTYPE, "bits 8"),
    ("train", {"x": changed(X, lanes=2)}, BAD_DTYPE, "lanes 2"),
    ("train", {"x": changed(X, code=4)}, BAD_DTYPE, "code 4, bits 32"),
    ("train", {"x": changed(X, code=5, bits=64)}, BAD_DTYPE, "code 5"),
    ("train", {"y": np.full((4, 5, 6), 7.0)}, BAD_DTYPE, "y: expected float32, as x has, got float64"),
    ("train", {"weight": np.ones(5, np.float16)}, BAD_DTYPE, "weight: expected float32, float64 or x's dtype"),
    ("train", {"x": changed(X, ndim=-1)}, BAD_SHAPE, "ndim -1"),
    ("train", {"x": changed(X, ndim=65)}, BAD_SHAPE, "at most 64 axes"),
    ("train", {"x": changed(X, ndim=2**31 - 1)}, BAD_SHAPE, "at most 64 axes"),
    ("train", {"x": changed(X, shape=NO_SHAPE)}, BAD_SHAPE, "expected a shape"),
    ("train", {"x": changed(X, shape=(4, -5, 6))}, BAD_SHAPE, "lengths of an array that can exist"),
    ("train", {"x": changed(X, shape=(FAR, 5, FAR))}, BAD_SHAPE, "lengths of an array that can exist"),
    ("train", {"x": np.ones(5, np.float32)}, BAD_SHAPE, "x: expected at least 2 axes"),
    ("train", {"x": np.ones((), np.float32)}, BAD_SHAPE, "x: expected at least 2 axes"),
    ("train", {"y": np.full((4, 6, 5), 7, np.float32)}, BAD_SHAPE, "y: expected the shape of x"),
    ("train", {"y": np.full((4, 5), 7, np.float32)}, BAD_SHAPE, "y: expected the shape of x"),
    ("train", {"weight": np.ones(6)}, BAD_SHAPE, "weight: expected 5 numbers, one for each channel, got 6"),
    ("train", {"weight": np.ones((5, 1))}, BAD_SHAPE, "weight: expected one axis"),
    ("train", {"mean": np.ones(4)}, BAD_SHAPE, "mean: expected 5 numbers"),
    ("train", {"x": CASE.x[:1, :, :1], "y": np.full((1, 5, 1), 7, np.float32), "residual": None}, BAD_SHAPE,
     "more than one value per channel"),
    ("train", {"x": changed(X, strides=(FAR, 1, 1))}, BAD_STRIDES, "strides leave the range"),
    ("train", {"x": changed(X, strides=(2**57, 2**57, 2**57))}, BAD_STRIDES, "strides leave the range"),
    ("train", {"x": changed(X, strides=(-(2**55), 1, 1))}, BAD_STRIDES, "strides leave the range"),
    ("train", {"x": changed(X, byte_offset=2**63)}, BAD_STRIDES, "byte_offset"),
    ("train", {"x": changed(X, data=2**64 - 4)}, BAD_STRIDES, "byte_offset"),
    ("train", {"y": changed(Y, strides=(30, 6, 0))}, BAD_STRIDES, "y: expected one place"),
    ("train", {"y": changed(Y, strides=(3, 6, 1))}, BAD_STRIDES, "y: expected one place"),
    ("train", {"mean": changed(np.full(5, 7.0), strides=(0,))}, BAD_STRIDES, "mean: expected one place"),
    ("train", {"axis": 3}, BAD_VALUE, "axis: expected -3 to 2"),
    ("train", {"axis": -4}, BAD_VALUE, "axis: expected -3 to 2"),
    ("train", {"eps": 0.0}, BAD_VALUE, "eps: expected a number > 0"),
    ("train", {"eps": -1e-5}, BAD_VALUE, "eps: expected a finite number >= 0"),
    ("inference", {"eps": math.nan}, BAD_VALUE, "eps: expected a finite number >= 0"),
    ("backward", {"eps": math.inf}, BAD_VALUE, "eps: expected a finite number >= 0"),
    ("train", {"momentum": math.nan}, BAD_VALUE, "momentum: expected a finite number"),
    ("train", {"correction": -1.0}, BAD_VALUE, "correction: expected a finite number >= 0"),
    ("train", {"correction": math.inf}, BAD_VALUE, "correction: expected a finite number >= 0"),
    ("train", {"correction": 24.0}, BAD_VALUE, "correction: expected a number below the count, 24"),
    ("train", {"activation": 4}, BAD_VALUE, "activation: expected one of"),
    ("train", {"activation": -1}, BAD_VALUE, "activation: expected one of"),
    ("train", {"activation": ("leaky_relu", -0.5)}, BAD_VALUE, "slope: expected 0"),
    ("train", {"activation": ("leaky_relu", math.nan)}, BAD_VALUE, "slope: expected 0"),
    ("train", {"activation": ("leaky_relu", 1e-39)}, BAD_VALUE, "slope: expected 0"),
    ("train", {"threads": -1}, BAD_VALUE, "threads: expected 1 to 512"),
    ("train", {"threads": 513}, BAD_VALUE, "threads: expected 1 to 512"),
    ("train", {"flags": 2}, BAD_VALUE, "flags: expected 0 or BNKERN_FROZEN"),
    ("train", {"size": 8}, BAD_CALL, "size: expected sizeof(bnkern_call)"),
    ("train", {"size": 0}, BAD_CALL, "size: expected sizeof(bnkern_call)"),
    ("train", {"size": 2**63}, BAD_CALL, "size: expected sizeof(bnkern_call)"),
    ("inference", {"running_mean": None}, MISSING, "running_mean: expected an array, as inference"),
    ("stats", {"var": None}, MISSING, "var: expected an array, as stats"),
    ("backward", {"dy": None}, MISSING, "dy: expected an array"),
    ("backward", {"mean": None}, MISSING, "mean: expected an array"),
    ("backward", {"x": None}, MISSING, "x: expected an array, as backward needs it here"),
    ("backward", {"activation": "relu"}, MISSING, "y: expected the forward's y"),
    ("backward", {"dx": None, "dweight": None, "dbias": None, "dresidual": None}, MISSING, "nothing to compute"),
    ("reduce", {"sum_dy": None}, MISSING, "sum_dy: expected an array, as reduce"),
    ("apply", {"sum_dy": None}, MISSING, "sum_dy: expected an array, as apply"),
    ("apply", {"dx": None}, MISSING, "dx: expected an array, as apply"),
    ("apply", {"count": 23}, BAD_VALUE, "count: expected at least 24"),
    ("update_running", {"count": -1}, BAD_VALUE, "count: expected a number >= 0"),
    ("update_running", {"count": 1}, BAD_VALUE, "correction: expected a number below the count, 1"),
    ("update_running", {"running_var": np.ones(4)}, BAD_SHAPE, "running_var: expected 5 numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "wrong", "status", "words"), TABLE, ids=lambda v: None)
def test_wrong_arguments(operation, wrong, status, words):
    arguments = given(operation) | wrong
    before = {name: a.tobytes() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    size = arguments.pop("size", None)
    call = c_api.request(**arguments)
    if size is not None:
        call.size = size
    got, said = c_api.perform(operation, call)
    assert (got, words in said) == (status, True), said
    assert {name: arguments[name].tobytes() for name in before} == before


@pytest.mark.parametrize("operation", c_api.OPERATIONS)
def test_what_the_table_varies_is_right(operation):
    assert c_api.perform(operation, c_api.request(**given(operation))) == (OK, "untouched")


def overlaps():
    """(operation, arrays): memory that is written and lies partly, or where it may not, in another array's."""
    buffer = np.zeros(400, np.float32)
    view = lambda at: buffer[at : at + 120].reshape(4, 5, 6)  # noqa: E731
    tail = buffer[:120].view(np.float64)[:5]
    v = np.ones(5)
    yield "train", {"x": view(0), "y": view(1)}
    yield "train", {"x": view(0), "y": view(119)}
    yield "train", {"x": view(0), "y": view(200), "residual": view(210)}
    yield "train", {"x": view(0), "y": view(200), "mean": tail}
    yield "train", {"x": view(0), "y": view(200), "mean": v, "var": v}
    yield "train", {"x": view(0), "y": view(200), "running_mean": v, "running_var": v[::-1]}
    yield "train", {"x": view(0), "y": view(200), "weight": v, "running_mean": v, "running_var": v + 1}
    yield "backward", {"x": view(0), "dy": view(200), "dx": view(199)}
    yield "backward", {"x": view(0), "dy": view(200), "dx": view(280), "dresidual": view(280)}
    yield "backward", {"x": view(0), "dy": view(200), "dx": view(200), "dresidual": np.zeros((4, 5, 6), np.float32)}
    yield "backward", {"x": view(0), "dy": view(200), "dweight": v, "dbias": v}
    yield "backward", {"x": view(0), "dy": view(200), "mean": v, "dbias": v}


@pytest.mark.parametrize(("operation", "arrays"), list(overlaps()), ids=lambda v: None)
def test_overlaps(operation, arrays):
    arguments = (given(operation) | {"residual": None, "dresidual": None}) | arrays
    before = {name: a.tobytes() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    status, words = c_api.perform(operation, c_api.request(**arguments))
    assert status == OVERLAP, words
    assert "got an overlap with" in words
    assert {name: arguments[name].tobytes() for name in before} == before


def test_overlap_with_another_shape_of_the_same_memory():
    """The same first byte, but other strides."""
    square = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    status, words = c_api.perform("train", c_api.request(x=square, y=square.T))
    assert (status, "exactly the same" in words) == (OVERLAP, True)


def test_no_call_and_no_room_for_words():
    words = ctypes.create_string_buffer(512)
    assert c_api.API.train(None, words, 512) == BAD_CALL
    assert b"got NULL" in words.value
    call = c_api.request()
    assert c_api.API.train(ctypes.addressof(call), None, 0) == MISSING
    for size in (0, 1, 10):
        words = ctypes.create_string_buffer(b"-" * 20, 21)
        assert c_api.API.train(ctypes.addressof(call), words, size) == MISSING
        assert words.raw[size:20] == b"-" * (20 - size)
        assert size == 0 or words.raw[size - 1] == 0


class Newer(ctypes.Structure):
    """The struct of a later header."""

    _fields_ = (("call", c_api.Call), ("more", ctypes.c_void_p))


def test_a_newer_header():
    """What it adds must be unset, as this library does not know it."""
    x = CASE.x
    y = np.empty_like(x)
    newer = Newer(call=c_api.request(x=x, y=y))
    newer.call.size = ctypes.sizeof(Newer)
    words = ctypes.create_string_buffer(512)
    assert c_api.API.train(ctypes.addressof(newer), words, 512) == OK
    newer.more = 1
    assert c_api.API.train(ctypes.addressof(newer), words, 512) == BAD_CALL


def test_the_struct_that_ctypes_sees_is_the_headers():
    assert ctypes.sizeof(Tensor) == 48
    assert ctypes.sizeof(c_api.Call) == 64 + 16 * 8
    assert c_api.API.abi_version == 1
    assert c_api.API.size == ctypes.sizeof(c_api.Api)

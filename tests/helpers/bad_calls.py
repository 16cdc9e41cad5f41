"""The table of calls that must be refused: what test_bad_input.py walks through. Issue 2, point 5.

A row is a name, a function, the arguments in which the call differs from a good one (or a function that
makes them of the good ones, where memory is shared), the error, and the words that its message must have.
"""

import numpy as np

import bnkern

SHAPE = (4, 3, 5)


def f32(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def good(function):
    """Arguments with which the call succeeds, everything optional given."""
    x, vectors = f32(*SHAPE), {"weight": f32(3, seed=1), "bias": f32(3, seed=2)}
    running = {"running_mean": f32(3, seed=3), "running_var": f32(3, seed=4) ** 2}
    stats = bnkern.BatchStats(x.mean((0, 2), np.float64), x.var((0, 2), np.float64), 20)
    sums = bnkern.GradSums(np.ones(3), np.ones(3))
    forward = {
        "x": x,
        **vectors,
        "axis": 1,
        "eps": 1e-5,
        "activation": "relu",
        "residual": f32(*SHAPE, seed=5),
    }
    backward = {"dy": f32(*SHAPE, seed=6), "x": x, "stats": stats, **vectors, "axis": 1, "eps": 1e-5}
    backward |= {"activation": "relu", "y": f32(*SHAPE, seed=7)}
    running_options = {"momentum": 0.1, "num_batches": None, "correction": 1}
    fold = {"conv_weight": f32(3, 2, 5, seed=8), "conv_bias": f32(3), **running, **vectors}
    fold |= {"eps": 1e-5, "out_axis": 0, "groups": 3}
    out = np.full(SHAPE, 7, np.float32)
    return {
        "batch_norm_inference": forward | running | {"out": out},
        "batch_norm_train": forward | running | running_options | {"out": out},
        "batch_norm_vjp": forward | running | running_options | {"out": out, "training": True},
        "batch_norm_backward": backward | {"frozen": False, "needs": ("x", "weight"), "out": out},
        "batch_stats": {"x": x, "axis": 1},
        "merge_stats": {"parts": [stats, stats]},
        "update_running": running | {"stats": stats} | running_options,
        "backward_reduce": backward,
        "backward_apply": backward | {"sums": sums, "out": out},
        "fold_batch_norm": fold,
        "set_num_threads": {"n": bnkern.get_num_threads()},
        "threads": {"n": 1},
    }[function]


FORWARD = ["batch_norm_inference", "batch_norm_train", "batch_norm_vjp"]
BACKWARD = ["batch_norm_backward", "backward_reduce", "backward_apply"]
OPTIONS = [*FORWARD, *BACKWARD]
TAKES_X = [*OPTIONS, "batch_stats"]
WITH_OUT = [*FORWARD, "batch_norm_backward", "backward_apply"]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


WRONG_ARRAYS = {
    "integer": np.ones(SHAPE, np.int64),
    "bool": np.ones(SHAPE, bool),
    "complex": np.ones(SHAPE, np.complex64),
    "object": np.ones(SHAPE, object),
    "longdouble": np.ones(SHAPE, np.longdouble),
    "text": np.full(SHAPE, "1"),
    "structured": np.zeros(SHAPE, [("value", "f4")]),
    "list": np.ones(SHAPE).tolist(),
    "None": None,
    "number": 1.0,
    "NumPy number": np.float32(1),
    "masked": np.ma.masked_array(np.ones(SHAPE, np.float32)),
    "matrix": np.ones((4, 3), np.float32).view(np.matrix),
    "text alone": "x",
}
BAD_VECTORS = {
    "too short": (np.ones(2, np.float32), ValueError),
    "too long": (np.ones(4, np.float32), ValueError),
    "one for all": (np.ones(1, np.float32), ValueError),
    "no dimension": (np.array(1, np.float32), ValueError),
    "two dimensions": (np.ones((1, 3), np.float32), ValueError),
    "a column": (np.ones((3, 1), np.float32), ValueError),
    "integer": (np.ones(3, np.int32), TypeError),
    "bool": (np.ones(3, bool), TypeError),
    "complex": (np.ones(3, np.complex128), TypeError),
    "longdouble": (np.ones(3, np.longdouble), TypeError),
    "object": (np.ones(3, object), TypeError),
    "list": ([1.0, 1.0, 1.0], TypeError),
    "number": (1.0, TypeError),
    "masked": (np.ma.masked_array(np.ones(3, np.float32)), TypeError),
}
BAD_PARTNERS = {  # arrays that must be like x
    "other shape": (np.ones((4, 3, 6), np.float32), ValueError),
    "same size, other shape": (np.ones((4, 5, 3), np.float32), ValueError),
    "would broadcast": (np.ones((1, 3, 5), np.float32), ValueError),
    "other rank": (np.ones((4, 3, 5, 1), np.float32), ValueError),
    "other dtype": (np.ones(SHAPE, np.float64), TypeError),
    "integer": (np.ones(SHAPE, np.int32), TypeError),
    "list": (np.ones(SHAPE).tolist(), TypeError),
    "masked": (np.ma.masked_array(np.ones(SHAPE, np.float32)), TypeError),
}
NUMBER_ERRORS = {
    "NaN": (float("nan"), ValueError),
    "Inf": (float("inf"), ValueError),
    "text": ("0.1", TypeError),
    "complex": (1j, TypeError),
    "list": ([0.1], TypeError),
    "array": (np.ones(3), TypeError),
}
EPS = NUMBER_ERRORS | {"negative": (-1e-5, ValueError), "None": (None, TypeError)}
AXIS = {
    "too large": (3, ValueError),
    "too small": (-4, ValueError),
    "huge": (2**64, ValueError),
    "fraction": (1.0, TypeError),
    "text": ("1", TypeError),
    "None": (None, TypeError),
    "two": ((0, 1), TypeError),
}
ACTIVATION = {"unknown": ("gelu", ValueError), "capital": ("ReLU", ValueError), "number": (1, TypeError)}
STATS = {
    "None": (None, TypeError),
    "number": (1, TypeError),
    "text": ("abc", TypeError),
    "short": ((np.zeros(3), np.ones(3)), ValueError),
    "long": ((np.zeros(3), np.ones(3), 20, 1), ValueError),
    "empty": ((), ValueError),
    "no mean": ((None, np.ones(3), 20), TypeError),
    "no var": ((np.zeros(3), None, 20), TypeError),
    "short mean": ((np.zeros(2), np.ones(3), 20), ValueError),
    "long var": ((np.zeros(3), np.ones(4), 20), ValueError),
    "integer mean": ((np.zeros(3, int), np.ones(3), 20), TypeError),
    "fractional count": ((np.zeros(3), np.ones(3), 20.5), ValueError),
    "negative count": ((np.zeros(3), np.ones(3), -20), ValueError),
    "NaN count": ((np.zeros(3), np.ones(3), float("nan")), ValueError),
    "text count": ((np.zeros(3), np.ones(3), "20"), TypeError),
    "vector count": ((np.zeros(3), np.ones(3), np.ones(1)), TypeError),
    "complex count": ((np.zeros(3), np.ones(3), 20j), TypeError),
    "boolean count": ((np.zeros(3), np.ones(3), True), TypeError),
    "no count": ((np.zeros(3), np.ones(3), None), TypeError),
}


def rows(functions, argument, bad, words=None):
    """The same bad values of one argument for several functions; the message names the argument at least."""
    for function in functions:
        for label, (value, error) in bad.items():
            yield f"{function}: {argument} {label}", function, {argument: value}, error, words or [argument]


def of_arrays():
    yield from rows(TAKES_X, "x", {k: (v, TypeError) for k, v in WRONG_ARRAYS.items()})
    yield from rows(
        TAKES_X, "x", {"no dimension": (np.array(1, np.float32), ValueError), "vector": (f32(3), ValueError)}
    )
    for vector in ("weight", "bias"):
        yield from rows([*OPTIONS, "fold_batch_norm"], vector, BAD_VECTORS)
    for vector in ("running_mean", "running_var"):
        yield from rows([*FORWARD, "update_running", "fold_batch_norm"], vector, BAD_VECTORS)
        yield from rows(
            ["batch_norm_inference", "update_running", "fold_batch_norm"], vector, {"None": (None, TypeError)}
        )
        yield from rows(["batch_norm_train"], vector, {"None alone": (None, ValueError)})
        fixed = {
            "read-only": (read_only(f32(3)), ValueError),
            "broadcast": (np.broadcast_to(f32(1), 3), ValueError),
        }
        yield from rows(["batch_norm_train"], vector, fixed, words=[vector, "update_running"])
        overlapping = np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (3,), (0,))
        yield from rows(["batch_norm_train"], vector, {"all in one place": (overlapping, ValueError)})
    yield from rows(FORWARD, "residual", BAD_PARTNERS)
    yield from rows(BACKWARD, "dy", BAD_PARTNERS | {"None": (None, TypeError)})
    yield from rows(BACKWARD, "y", BAD_PARTNERS)
    yield from rows(WITH_OUT, "out", BAD_PARTNERS)
    yield from rows(WITH_OUT, "out", {"read-only": (read_only(f32(*SHAPE)), ValueError)})
    broadcast = np.lib.stride_tricks.as_strided(np.zeros(15, np.float32), SHAPE, (0, 20, 4))
    yield from rows(WITH_OUT, "out", {"all rows in one place": (broadcast, ValueError)})


def of_options():
    yield from rows([*OPTIONS, "fold_batch_norm"], "eps", EPS)
    yield from rows(["batch_norm_train"], "eps", {"zero": (0, ValueError)})
    yield from rows([*OPTIONS, "batch_stats"], "axis", AXIS)
    yield from rows(OPTIONS, "activation", ACTIVATION)
    yield from rows(BACKWARD, "stats", STATS)
    yield from rows(["update_running"], "stats", STATS)

    yield from rows(["batch_norm_train", "update_running"], "momentum", NUMBER_ERRORS)
    batches = {
        "None": (None, ValueError),
        "zero": (0, ValueError),
        "negative": (-1, ValueError),
        "text": ("1", TypeError),
    }
    for label, (value, error) in (batches | {"fraction": (1.5, TypeError)}).items():
        for function in ("batch_norm_train", "update_running"):
            differ = {"momentum": None, "num_batches": value}
            yield f"{function}: num_batches {label}", function, differ, error, ["num_batches"]
    corrections = NUMBER_ERRORS | {"the count": (20, ValueError), "None": (None, TypeError)}
    yield from rows(["batch_norm_train", "update_running"], "correction", corrections)

    yield from rows(
        ["batch_norm_backward"], "needs",
        {"unknown": (("x", "gamma"), ValueError), "number": (1, TypeError), "text": ("x", TypeError),
         "None": (None, TypeError), "not text": ((0,), ValueError)},
    )  # fmt: skip
    yield from rows(["batch_norm_vjp"], "training", {"text": ("no", TypeError), "None": (None, TypeError)})
    yield from rows(["batch_norm_backward"], "frozen", {"text": ("no", TypeError), "None": (None, TypeError)})
    sums = {"None": (None, TypeError), "short": ((np.ones(3),), ValueError), "number": (1.0, TypeError)}
    sums |= {
        "short vector": ((np.ones(2), np.ones(3)), ValueError),
        "list": (([1.0] * 3, np.ones(3)), TypeError),
    }
    yield from rows(["backward_apply"], "sums", sums)


PART = bnkern.BatchStats(np.zeros(3), np.ones(3), 4)
PARTS = {
    "none at all": ([], ValueError),
    "None": (None, TypeError),
    "number": (3, TypeError),
    "one bare": (PART, TypeError),
    "an array": ([np.ones(3)], TypeError),
    "other channels": ([PART, (np.zeros(2), np.ones(2), 4)], ValueError),
    "short": ([PART, PART[:2]], ValueError),
    "negative count": ([PART, PART._replace(count=-1)], ValueError),
    "fractional count": ([PART, PART._replace(count=1.5)], ValueError),
    "no mean": ([PART, (None, *PART[1:])], TypeError),
    "two dimensions": ([(np.zeros((1, 3)), np.ones((1, 3)), 4)], ValueError),
}
THREADS = {
    "zero": (0, ValueError),
    "negative": (-1, ValueError),
    "too many": (513, ValueError),
    "huge": (2**70, ValueError),
    "fraction": (1.5, TypeError),
    "text": ("2", TypeError),
    "None": (None, TypeError),
}
CONV_WEIGHT = {
    "integer": (np.ones((3, 2, 5), int), TypeError),
    "vector": (f32(3), ValueError),
    "None": (None, TypeError),
    "list": ([[1.0]], TypeError),
}
GROUPS = {
    "zero": (0, ValueError),
    "negative": (-1, ValueError),
    "no divisor": (4, ValueError),
    "fraction": (1.5, TypeError),
}


def of_other_functions():
    yield from rows(["merge_stats"], "parts", PARTS)
    yield from rows(["set_num_threads", "threads"], "n", THREADS)
    yield from rows(["fold_batch_norm"], "conv_weight", CONV_WEIGHT)
    yield from rows(["fold_batch_norm"], "conv_bias", BAD_VECTORS)
    yield from rows(["fold_batch_norm"], "out_axis", AXIS)
    yield from rows(["fold_batch_norm"], "groups", GROUPS)


def overlapping(argument):
    """`out` begins one element after `argument` does."""

    def differ(good):
        a = good[argument]
        room = np.zeros(a.size + 1, a.dtype)
        room[:-1] = a.ravel()
        return {argument: room[:-1].reshape(a.shape), "out": room[1:].reshape(a.shape)}

    return differ


def backwards(argument):
    """`out` is `argument`'s memory in another order."""
    return lambda good: {"out": good[argument][::-1]}


def inside(argument, host):
    """`argument` is three elements of `host`."""
    return lambda good: {argument: good[host].reshape(-1)[:3]}


def halves_of_one(good):
    room = np.zeros(4, np.float32)
    return {"running_mean": room[:3], "running_var": room[1:]}


def count_of(count):
    return lambda good: {"stats": good["stats"]._replace(count=count)}


def of_shared_memory_and_counts():
    for function in WITH_OUT:
        for argument in sorted({"x", "residual", "dy", "y"} & good(function).keys()):
            words = ["out", argument]
            yield (
                f"{function}: out overlaps {argument} in part",
                function,
                overlapping(argument),
                ValueError,
                words,
            )
            yield f"{function}: out is {argument} backwards", function, backwards(argument), ValueError, words
    train = "batch_norm_train"
    yield "running buffers are one", train, inside("running_mean", "running_var"), ValueError, ["running_"]
    yield "running buffers overlap in part", train, halves_of_one, ValueError, ["running_"]
    yield "running_mean is weight", train, inside("running_mean", "weight"), ValueError, ["running_mean"]
    yield "running_mean lies in out", train, inside("running_mean", "out"), ValueError, ["out"]
    yield "running_var lies in x", train, inside("running_var", "x"), ValueError, ["running_var"]
    yield "weight lies in out", train, inside("weight", "out"), ValueError, ["out", "weight"]
    for shape in [(1, 3), (1, 3, 1), (1, 3, 1, 1)]:
        one = {"x": f32(*shape), "residual": None, "out": None}
        yield f"one value per channel {shape}", train, one, ValueError, ["x", str(shape)]
    yield "count of another batch", "batch_norm_backward", count_of(19), ValueError, ["stats", "19", "20"]
    yield "count below the part's", "backward_apply", count_of(19), ValueError, ["stats", "19", "20"]
    itself = lambda good: {"out": good["x"]}  # noqa: E731
    yield "what vjp reads is written", "batch_norm_vjp", itself, ValueError, ["out", "apart from x"]
    fixed = {"training": False, "running_mean": None, "running_var": None}
    yield "vjp without statistics", "batch_norm_vjp", fixed, TypeError, ["running_mean"]
    no_y = {"needs": ("residual",), "y": None, "out": None}
    yield "residual's gradient without y", "batch_norm_backward", no_y, ValueError, ["y", "residual"]


BAD = [*of_arrays(), *of_options(), *of_other_functions(), *of_shared_memory_and_counts()]

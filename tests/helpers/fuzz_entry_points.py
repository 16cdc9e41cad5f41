"""Calls every compiled entry point with whatever comes to mind: it returns or raises, it must not crash.

Run as a program, in a process of its own: `python fuzz_entry_points.py SEED`. Half of the calls are good
ones with one or two arguments replaced, which reach further in; the other half are odd from end to end.
"""

import inspect
import random
import sys

import numpy as np

from bnkern._native import checks, cpu, kernels, memory, plan, vectors
from helpers import native

SHAPE = (3, 5, 4)


def one(passes):
    """`cpu.run` with everything it reads as parameters, so that each can be replaced."""

    def run(
        x, dy, residual, y, out, mean, var, weight, bias, sum_dy, sum_dy_xhat, axis, eps, count, frozen,
        activation, parameter, threads, dresidual, passes=passes,
    ):  # fmt: skip
        operands = {k: v for k, v in locals().items() if k not in ("passes", "threads", "dresidual")}
        return cpu.run(native.call(**operands), passes, threads, dresidual)

    return run


def ways_in():
    """{name: callable} of everything that can be called from Python."""
    found = {name: one(passes) for name, passes in native.PASSES.items()}
    for module in (kernels, plan, cpu, vectors, memory, checks):
        for name, thing in vars(module).items():
            if callable(thing) and not name.startswith("__") and getattr(thing, "__module__", "") == module.__name__:
                found[f"{module.__name__.rpartition('.')[2]}.{name}"] = thing
    return found


ATTACKED = ["cpu.run", "cpu.layout", "cpu.plan_of", "cpu.limit", "plan.facts", "vectors.ema_update",
            "vectors.ema_update_both", "checks.output"]


def good_values(rng):
    """A value for each parameter name that makes a call succeed."""
    values = {
        name: rng.standard_normal(SHAPE).astype(np.float32)
        for name in ("x", "dy", "y", "residual", "out")
    }
    values |= {
        name: rng.uniform(1, 2, 5)
        for name in ("mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat", "new_mean", "new_var")
    }
    values |= {"running": np.zeros(5), "value": rng.uniform(1, 2, 5), "momentum": 0.1, "scale": 1.0}
    values |= {"axis": 1, "eps": 1e-5, "activation": 1, "parameter": 0.0, "frozen": False, "dresidual": True}
    values |= {"shape": SHAPE, "strides": (80, 16, 4), "itemsize": 4, "call": native.call(**values), "passes": 5}
    return values | {"threads": 2, "count": 12.0}


def odd_values(rng):
    """Wrong types, wrong shapes, wrong memory."""
    a = rng.standard_normal(SHAPE).astype(np.float32)
    big = rng.standard_normal((70, 65, 9))
    types = ["i1", "i8", "f2", "g", "c8", "?", "O", "U3", "S3", "M8[s]", "V8", "f8", ">f4", ">f8"]
    shapes = [
        (4,),
        (6,),
        (1,),
        (0,),
        (5, 1),
        (3, 5),
        (3, 5, 4, 1),
        (5, 5, 5),
        (0, 5, 4),
        (3, 0, 4),
        (2,) * 14,
    ]
    misaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view("f4").reshape(SHAPE)
    record = [("tag", "u1"), ("value", "f4"), ("wide", "f8")]
    strided = np.lib.stride_tricks.as_strided
    return [
        *[None, True, 0, -1, 1, 2, -7, 2**31, -(2**31), 2**63, 2**64, 1.5, -0.0, float("nan"), float("inf")],
        *["x", b"x", "", [], (), {}, object(), int, len, slice(None), memoryview(b"abcd"), range(5)],
        *[np.float32(1), np.int64(3), a[0, 0, 0], np.array(1.0), np.array(None), np.ones((1,) * 32)],
        *(np.ones(SHAPE, t) for t in types),
        *(np.ones(5, t) for t in ("f4", "f8", ">f8", "g", "i8", "O")),
        *(np.ones(shape, t) for shape in shapes for t in ("f4", "f8")),
        *[a[::-1], a[:, ::2], a.T, a[:, :, ::-1], a[..., None], big, big[::2, ::-3], big.T, big[:, :5]],
        *[misaligned, np.asfortranarray(big), np.broadcast_to(a[:1], SHAPE), np.ma.masked_array(a)],
        *[strided(a, SHAPE, (0, 0, 0)), strided(a, SHAPE, (4, 4, 4)), strided(big, (5,), (24,))],
        *[np.zeros(5, record)["wide"], np.zeros(SHAPE, record)["value"], np.asmatrix(np.ones((3, 5)))],
    ]


def arguments(function, values, replaced, rng):
    """Positional and keyword arguments by the signature, or None where it has none."""
    positional, keyword = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "passes" and parameter.default is not parameter.empty and name not in replaced:
            continue  # the wrapper's own
        value = values.get(name, rng.choice([None, 0, 1.0, "x"]))
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty:
            keyword[name] = value
        else:
            positional.append(value)
    return positional, keyword


def attack(name, function, seed, calls=1500):
    """Returns how many calls succeeded and how many raised."""
    choose, rng = random.Random(f"{seed} {name}"), np.random.default_rng(seed)
    succeeded = raised = 0
    odd = odd_values(rng)
    for k in range(calls):
        values = good_values(rng)
        names = list(inspect.signature(function).parameters)
        replaced = choose.sample(
            names, min(len(names), choose.choice([0, 1, 1, 1, 2, 2, 3]) if k % 2 else len(names))
        )
        values |= {n: choose.choice(odd) for n in replaced}
        if k % 97 == 0:  # the wrong number of arguments
            values, positional, keyword = {}, [choose.choice(odd) for _ in range(choose.randrange(20))], {}
        else:
            positional, keyword = arguments(function, values, replaced, choose)
        if survives(function, *positional, **keyword):
            succeeded += 1
        else:
            raised += 1
    return succeeded, raised


def survives(function, *positional, **keyword):
    """Whether a call returned. SystemError is not caught: it says that the C side broke Python's rules."""
    try:
        function(*positional, **keyword)
    except SystemError:
        raise
    except Exception:
        return False
    return True


def main(seed):
    np.seterr(all="ignore")
    for name, function in ways_in().items():
        print(name, end=" ", flush=True)  # the last name printed is the one that crashed
        if inspect.isclass(function):
            attack_class(function)
            print("class")
        else:
            print(*attack(name, function, seed), flush=True)


def attack_class(cls):
    """A type that was not meant to be seen: make one and touch all it has."""
    try:
        thing = cls.__new__(cls)
    except TypeError:
        return
    for name in dir(thing):
        value = getattr(thing, name, None)
        if callable(value) and not name.startswith("__"):
            for args in ((), (None,), (0, "x")):
                survives(value, *args)


if __name__ == "__main__":
    main(int(sys.argv[1]))

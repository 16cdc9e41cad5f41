"""Other libraries on the same arrays: for each, the calls it has for a case and an operation, by name.

Names that begin alike belong to one library: "torch" and "torch fresh", "onednn cf", "onednn blocked". A call
writes to memory that exists, where the library has such a call and the name does not say "fresh".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import onednn

from bnkern import get_num_threads
from bnkern.cli.measure import EPS, Call, Case, settle, torch_calls


class Rival(NamedTuple):
    calls: Callable[[Case, str], dict[str, Call]]
    modules: tuple[str, ...]
    missing: Callable[[], str | None] = lambda: None


def missing(name: str) -> str | None:
    """Why a rival is left out; None if it is there."""
    rival = RIVALS[name]
    absent = [module for module in rival.modules if find_spec(module) is None]
    return f"{name}: {', '.join(absent)} not installed" if absent else rival.missing()


def present() -> list[str]:
    return [name for name in RIVALS if missing(name) is None]


def calls(case: Case, op: str, names: list[str]) -> dict[str, Call]:
    """What the rivals of these names have for this operation."""
    found: dict[str, Call] = {}
    with warnings.catch_warnings():  # theirs are not ours to mend
        warnings.simplefilter("ignore")
        for name in names:
            found |= RIVALS[name].calls(case, op)
    return found


def contenders(found: dict[str, Call], within: float = 1.4) -> dict[str, Call]:
    """Without oneDNN's layouts that are far behind its best: the best is what counts, and the others take long."""
    mine = {name: call for name, call in found.items() if name.startswith("onednn")}
    once = {name: min(_seconds(call) for _ in range(3)) for name, call in mine.items()}
    slow = [name for name in mine if once[name] > within * min(once.values())]
    return {name: call for name, call in found.items() if name not in slow}


def _seconds(call: Call) -> float:
    settle()
    call()
    begin = perf_counter()
    call()
    return perf_counter() - begin


# --- the formula, in NumPy and in JAX ---------------------------------------------------------------------


def formulas(xp: Any, case: Case) -> dict[str, Callable[..., Any]]:
    """The operations as one writes them in an array library; 16-bit numbers are computed with in float32."""
    axis = case.axis % case.x.ndim
    others = tuple(i for i in range(case.x.ndim) if i != axis)
    column = tuple(-1 if i == axis else 1 for i in range(case.x.ndim))
    count = case.x.size // case.x.shape[axis]

    def wide(a: Any) -> Any:
        return a if a.dtype.itemsize > 2 else a.astype(xp.float32)

    def stats(x: Any) -> Any:
        x = wide(x)
        return x.mean(axis=others), x.var(axis=others)

    def inference(x: Any, mean: Any, var: Any, w: Any, b: Any) -> Any:
        scale = w / xp.sqrt(var + EPS)
        y = (wide(x) - mean.reshape(column)) * scale.reshape(column) + b.reshape(column)
        return y.astype(x.dtype)

    def train(x: Any, w: Any, b: Any) -> Any:
        mean, var = stats(x)
        return inference(x, mean, var, w, b), mean, var

    def backward(dy: Any, x: Any, mean: Any, var: Any, w: Any) -> Any:
        invstd = 1 / xp.sqrt(var + EPS)
        g = wide(dy)
        xhat = (wide(x) - mean.reshape(column)) * invstd.reshape(column)
        dweight, dbias = (g * xhat).sum(axis=others), g.sum(axis=others)
        dx = g - (dbias / count).reshape(column) - xhat * (dweight / count).reshape(column)
        return (dx * (w * invstd).reshape(column)).astype(dy.dtype), dweight, dbias

    def frozen(dy: Any, var: Any, w: Any) -> Any:
        return (wide(dy) * (w / xp.sqrt(var + EPS)).reshape(column)).astype(dy.dtype)

    return {"inference": inference, "train": train, "backward": backward, "frozen": frozen, "stats": stats}


def arguments(case: Case, op: str) -> tuple[np.ndarray, ...]:
    c = case
    return {
        "inference": (c.x, c.mean, c.var, c.weight, c.bias),
        "train": (c.x, c.weight, c.bias),
        "backward": (c.dy, c.x, c.mean, c.var, c.weight),
        "frozen": (c.dy, c.var, c.weight),
        "stats": (c.x,),
    }[op]


def numpy_calls(case: Case, op: str) -> dict[str, Call]:
    formula, given = formulas(np, case)[op], arguments(case, op)
    return {"numpy": lambda: formula(*given)}


def jax_calls(case: Case, op: str) -> dict[str, Call]:
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    compiled = jax.jit(formulas(jax.numpy, case)[op])
    given = [jax.device_put(a, jax.devices("cpu")[0]) for a in arguments(case, op)]
    return {"jax": lambda: jax.block_until_ready(compiled(*given))}


# --- ONNX Runtime -----------------------------------------------------------------------------------------


def onnxruntime_calls(case: Case, op: str) -> dict[str, Call]:
    """Inference with channels second, to an output that exists; it has no other."""
    if op != "inference" or (case.axis != 1 and case.x.ndim > 2) or case.x.dtype.name == "bfloat16":
        return {}
    onnx, ort = import_module("onnx"), import_module("onnxruntime")
    kind = {"float16": "FLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}[case.x.dtype.name]
    element = getattr(onnx.TensorProto, kind)
    images = [onnx.helper.make_tensor_value_info(name, element, case.x.shape) for name in ("x", "y")]
    vectors = {"w": case.weight, "b": case.bias, "mean": case.mean, "var": case.var}
    node = onnx.helper.make_node("BatchNormalization", ["x", *vectors], ["y"], epsilon=EPS)
    constants = [onnx.numpy_helper.from_array(v.astype(case.x.dtype), k) for k, v in vectors.items()]
    graph = onnx.helper.make_graph([node], "bn", images[:1], images[1:], constants)
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 15)])
    options = ort.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class; what it lacks is not ours to know
        if "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__:
            return {}
        raise
    binding = session.io_binding()
    for name, bind, a in (("x", binding.bind_input, case.x), ("y", binding.bind_output, case.out)):
        bind(name, "cpu", 0, a.dtype.type, a.shape, a.ctypes.data)
    return {"onnxruntime": lambda: session.run_with_iobinding(binding)}


RIVALS = {
    "torch": Rival(torch_calls, ("torch",)),
    **{b: Rival(partial(onednn.calls, b), (), partial(onednn.missing, b)) for b in onednn.BUILDS},
    "jax": Rival(jax_calls, ("jax",)),
    "onnxruntime": Rival(onnxruntime_calls, ("onnxruntime", "onnx")),
    "numpy": Rival(numpy_calls, ()),
}

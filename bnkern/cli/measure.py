"""Fair timing, and what is timed: bnkern on one layer, the machine's limit, PyTorch on the same memory.

`bnkern bench` and benchmarks/ are made of this.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

import bnkern
from bnkern._call import OPERATIONS
from bnkern._dtypes import Array
from bnkern._native import cpu
from bnkern._threads import get_num_threads, set_num_threads
from bnkern._types import BatchStats

Call = Callable[[], object]

EPS = 1e-5
LAYOUTS = ("channels first", "channels last")


# What each operation is held against: the machine's streaming copy, or its sum of two arrays.
OPS = {"inference": "copy", "train": "copy", "backward": "triad", "frozen": "triad", "stats": "copy"}


# --- timing -----------------------------------------------------------------------------------------------


def measure(calls: Mapping[str, Call], budget: float = 2.0, *, rounds: int = 7) -> dict[str, list[float]]:
    """Time `calls` in turn, for about `budget` seconds: seconds per call, by name.

    In each round every callable has one block: wait until the process is idle (`settle`), one call that does
    not count (it wakes its own threads, and brings its own data into the caches), then samples for a fair
    share of the budget. A sample is one call, or so many short ones that the clock does not matter. What the
    machine does to one callable it does to its neighbours too: so compare medians of one run, not of two.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    share = budget / (rounds * max(1, len(calls)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        start, done = time.perf_counter(), 0
        while done < min(3, rounds) or time.perf_counter() - start < budget:
            for name, call in calls.items():
                settle()
                call()
                seconds[name] += _block(call, repeats[name], share)
            done += 1
    finally:
        if collecting:
            gc.enable()
    return seconds


def settle(patience: float = 0.05) -> None:
    """Sleep until no thread of this process runs, at most `patience` seconds.

    The threads of OpenMP's pools keep spinning for milliseconds (6 with libgomp) after their work, and would
    take the cores from the library that is measured next.
    """
    deadline = time.perf_counter() + patience
    while time.perf_counter() < deadline:
        busy = time.process_time()
        time.sleep(1e-3)
        if time.process_time() - busy < 2e-4:
            return


def _block(call: Call, repeats: int, share: float) -> list[float]:
    samples = []
    deadline = time.perf_counter() + share
    while True:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        end = time.perf_counter()
        samples.append((end - begin) / repeats)
        if end >= deadline:
            return samples


def _repeats(call: Call, least: float = 1e-4) -> int:
    """How many calls fill the shortest sample. The very first may compile or allocate, and is not timed."""
    call()
    begin = time.perf_counter()
    call()
    middle = time.perf_counter()
    call()
    return max(1, round(least / min(middle - begin, time.perf_counter() - middle)))


# --- one layer --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """The arrays of one layer, as they lie in memory: everything that a call may want."""

    x: Array
    dy: Array
    out: Array
    weight: Array
    bias: Array
    mean: Array
    var: Array
    stats: BatchStats
    axis: int

    @cached_property
    def y(self) -> Array:
        """A third array, for a backward call that reads the forward's result."""
        return self.x.copy()


def make_case(shape: tuple[int, ...], layout: str = LAYOUTS[0], dtype: str = "float32") -> Case:
    """Normal numbers for a layer of the logical `shape` (channels second), in gapless arrays."""
    last = layout == LAYOUTS[1]
    stored = (shape[0], *shape[2:], shape[1]) if last else shape
    axis, vector = (-1 if last else 1), np.dtype("float64" if dtype == "float64" else "float32")
    x, dy = _normal(stored, dtype, 0), _normal(stored, dtype, 1)
    weight, bias = _normal(shape[1:2], vector, 2) + 2, _normal(shape[1:2], vector, 3)
    stats = bnkern.batch_stats(x, axis=axis)
    mean, var = stats.mean.astype(vector), stats.var.astype(vector)
    return Case(x, dy, np.zeros_like(x), weight, bias, mean, var, stats, axis)


def _normal(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Large arrays repeat a million numbers: drawing them all takes longer than measuring."""
    size = int(np.prod(shape))
    drawn = np.random.default_rng(seed).standard_normal(min(size, 1_000_003), np.float32)
    return np.resize(drawn.astype(_numpy_dtype(dtype)), size).reshape(shape)


def _numpy_dtype(dtype: Any) -> Any:
    return import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


def kernel(case: Case, op: str, *, fresh: bool = False, relu: bool = False, residual: bool = False) -> Call:
    """bnkern's call: to `case.out` or, if `fresh`, a new array; with ReLU, or residual and ReLU, fused."""
    x, dy, w, b, mean, var, stats, axis = (
        case.x, case.dy, case.weight, case.bias, case.mean, case.var, case.stats, case.axis,
    )  # fmt: skip
    options: dict[str, Any] = {"axis": axis, "out": None if fresh else case.out}
    if relu or residual:
        options["activation"] = "relu"
    if op in ("inference", "train"):
        options |= {"residual": dy} if residual else {}
    elif residual:
        options |= {"y": case.y}
    if op == "inference":
        return lambda: bnkern.batch_norm_inference(
            x, running_mean=mean, running_var=var, weight=w, bias=b, **options
        )
    if op == "train":
        running = {"running_mean": mean.copy(), "running_var": var.copy()}
        return lambda: bnkern.batch_norm_train(x, weight=w, bias=b, **running, **options)
    if op == "backward":
        return lambda: bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, **options)
    if op == "frozen":
        options |= {"frozen": True, "needs": ("x",)}
        return lambda: bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, **options)
    return lambda: bnkern.batch_stats(x, axis=axis)


def with_threads(number: int, call: Call) -> Call:
    """`call` on another number of threads."""

    def run() -> object:
        before = get_num_threads()
        set_num_threads(number)
        try:
            return call()
        finally:
            set_num_threads(before)

    return run


def limit(case: Case, kind: str, threads: int | None = None) -> Call:
    """What the machine can do: a streaming copy (x to out) or triad (x + dy to out) of this case's memory."""
    x, dy, out = (_words(a) for a in (case.x, case.dy, case.out))
    number = threads or get_num_threads()
    return lambda: cpu.limit(x, dy if kind == "triad" else None, out, threads=number)


def _words(a: Array) -> Array:
    """The same memory in one dimension; 16-bit numbers as pairs, for only bytes count here."""
    flat = a.reshape(-1)
    return flat if flat.itemsize > 2 else flat[: flat.size // 2 * 2].view(np.float32)


def least_bytes(case: Case, op: str) -> int:
    return OPERATIONS[op].least * int(case.x.nbytes)


# --- PyTorch on the same memory ---------------------------------------------------------------------------


def torch_calls(case: Case, op: str) -> dict[str, Call]:
    """PyTorch's calls: "torch" writes to memory that exists, "torch fresh" is what a user's call costs."""
    torch = import_module("torch")
    torch.set_num_threads(get_num_threads())
    aten = torch.ops.aten

    def tensor(a: Array) -> Any:
        if a.dtype.itemsize == 2:  # torch takes no bfloat16 from NumPy
            return torch.from_numpy(a.view(np.int16)).view(getattr(torch, a.dtype.name))
        return torch.from_numpy(a)

    def image(a: Array) -> Any:
        return tensor(a) if case.axis == 1 else tensor(a).movedim(-1, 1)

    x, dy, out = image(case.x), image(case.dy), image(case.out)
    w, b, mean, var = (tensor(a.copy()) for a in (case.weight, case.bias, case.mean, case.var))
    if op == "stats":
        sum_over = [i for i in range(x.ndim) if i != 1]
        return {"torch": lambda: torch.var_mean(x, sum_over, correction=0)}
    if op in ("inference", "train"):
        training = op == "train"
        save = {name: w.new_empty(len(w) if training else 0) for name in ("save_mean", "save_invstd")}

        def warm() -> object:
            return aten.native_batch_norm.out(x, w, b, mean, var, training, 0.1, EPS, out=out, **save)

        def fresh() -> object:
            with torch.no_grad():
                return torch.nn.functional.batch_norm(x, mean, var, w, b, training, 0.1, EPS)

        return {"torch": warm, "torch fresh": fresh}

    frozen = op == "frozen"
    mask = [True, not frozen, not frozen]
    _, save_mean, save_invstd = torch.native_batch_norm(x, w, b, mean, var, not frozen, 0.1, EPS)

    def backward() -> object:
        return aten.native_batch_norm_backward(dy, x, w, mean, var, save_mean, save_invstd, not frozen, EPS, mask)

    return {"torch": on_kept_heap(backward, int(case.x.nbytes)), "torch fresh": backward}


def on_kept_heap(call: Call, size: int) -> Call:
    """`call`, its new arrays in memory that the process already has.

    PyTorch's backward has no variant that writes to a given array (its `.out` computes a new one and copies).
    So the C library is told to keep what is freed and to hand it out again, for large arrays too: then these
    calls, as all that are called warm, do not pay for new pages.
    """
    if sys.platform != "linux" or size < 1 << 20:
        return call  # small arrays come from memory that is kept anyway
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # M_... of malloc.h
    # Setting one ends the automatic adjustment of the others: so to what it comes to in a process that has
    # used large arrays.
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, -1)

    def run() -> object:
        mallopt(mmap_max, 0)
        try:
            return call()
        finally:
            mallopt(mmap_max, 65536)

    return run

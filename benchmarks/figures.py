"""Ratios and means of figures: what tables, bars and charts are made of. Ratios are of times of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, log
from typing import Any

BIG, MEDIUM = 16e6, 1e6  # bytes of x
Case = dict[str, Any]
Ratio = Callable[[Case], float | None]


def time_of(case: Case, who: str) -> float | None:
    """Seconds; "onednn" is the best of its layouts and versions. None where it did not take part."""
    found = [
        seconds
        for name, seconds in case["seconds"].items()
        if name == who or (who == "onednn" and name.startswith("onednn"))
    ]
    return min(found) if found else None


def over(a: str, b: str) -> Ratio:
    """How many times as long `a` takes as `b`."""

    def ratio(case: Case) -> float | None:
        x, y = time_of(case, a), time_of(case, b)
        return None if x is None or y is None else x / y

    return ratio


def rival(case: Case) -> tuple[str, float] | None:
    """Who of those that write to memory that exists is fastest, and its seconds."""
    found = {who: t for who, t in case["seconds"].items() if who == "torch" or who.startswith("onednn")}
    if not found:
        return None
    who = min(found, key=lambda name: found[name])
    return who, found[who]


def ahead(case: Case) -> float | None:
    """How many times as long the fastest rival takes as bnkern: below 1 is a loss."""
    best, mine = rival(case), time_of(case, "bnkern")
    return None if best is None or mine is None else best[1] / mine


def own_read(case: Case) -> float | None:
    """The time that a fused residual costs, in times of reading it: half a copy, a third of a triad."""
    plain, fused, limit = (time_of(case, who) for who in ("bnkern", "bnkern residual", "limit"))
    if plain is None or fused is None or limit is None:
        return None
    return (fused - plain) / (limit / (2 if case["limit"] == "copy" else 3))


LIMIT = over("bnkern", "limit")
COMPARED = {
    "torch": over("torch", "bnkern"),
    "torch fresh": over("torch fresh", "bnkern fresh"),
    "oneDNN": over("onednn", "bnkern"),
    "JAX": over("jax", "bnkern fresh"),
    "ONNX Runtime": over("onnxruntime", "bnkern"),
    "NumPy": over("numpy", "bnkern fresh"),
}
VARIANTS = {
    "fresh output": over("bnkern fresh", "bnkern"),
    "ReLU": over("bnkern relu", "bnkern"),
    "residual, in its reads": own_read,
    "1 thread": over("bnkern 1 thread", "bnkern"),
    "limit, 1 thread": over("limit 1 thread", "limit"),
}


def values(cases: Iterable[Case], ratio: Ratio) -> list[float]:
    return [value for case in cases if (value := ratio(case)) is not None and value > 0]


def geometric(found: list[float]) -> float | None:
    return exp(sum(map(log, found)) / len(found)) if found else None


def mean(cases: Iterable[Case], ratio: Ratio) -> float | None:
    """Geometric mean."""
    return geometric(values(cases, ratio))


def extreme(cases: Iterable[Case], ratio: Ratio, pick: Any = max) -> tuple[float, Case] | None:
    """The largest ratio (or with pick=min the smallest) and whose it is."""
    found = [(value, case) for case in cases if (value := ratio(case)) is not None]
    return pick(found, key=lambda pair: pair[0]) if found else None


def sized(cases: Iterable[Case], least: float, most: float = float("inf")) -> list[Case]:
    return [case for case in cases if least <= case["size"] < most]


def chosen(report: dict[str, Any], **wanted: Any) -> list[Case]:
    """Cases with these fields: chosen(report, op="train", dtype="float32")."""
    return [case for case in report["cases"] if all(case[name] == value for name, value in wanted.items())]


# --- in words ---------------------------------------------------------------------------------------------


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 9.95 else f"{value:.0f}"

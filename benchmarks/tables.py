"""Markdown tables from the figures that report.py keeps. Ratios are of times of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import exp, log
from typing import Any

from layers import load

BIG, MEDIUM = 16e6, 1e6  # bytes of x
Case = dict[str, Any]
Ratio = Callable[[Case], float | None]


# --- ratios -----------------------------------------------------------------------------------------------


def reduced(report: dict[str, Any], statistic: str) -> dict[str, Any]:
    """The figures with one number of seconds for each who took part: "median", "least" ..."""

    def one(case: Case) -> Case:
        return case | {"seconds": {who: times[statistic] for who, times in case["seconds"].items()}}

    return report | {part: [one(case) for case in report[part]] for part in ("cases", "small", "sweep")}


def time_of(case: Case, who: str) -> float | None:
    """Seconds; "onednn" is the best of its layouts. None where it did not take part."""
    found = [
        seconds
        for name, seconds in case["seconds"].items()
        if name == who or (who == "onednn" and name.startswith("onednn "))
    ]
    return min(found) if found else None


def over(a: str, b: str) -> Ratio:
    """How many times as long `a` takes as `b`."""

    def ratio(case: Case) -> float | None:
        x, y = time_of(case, a), time_of(case, b)
        return None if x is None or y is None else x / y

    return ratio


def own_read(case: Case) -> float | None:
    """The time that a fused residual costs, in times of reading it: half a copy, a third of a triad."""
    plain, fused, limit = (time_of(case, who) for who in ("bnkern", "bnkern residual", "limit"))
    if plain is None or fused is None or limit is None:
        return None
    return (fused - plain) / (limit / (2 if case["limit"] == "copy" else 3))


COMPARED = {
    "torch": over("torch", "bnkern"),
    "torch fresh": over("torch fresh", "bnkern fresh"),
    "oneDNN, best layout": over("onednn", "bnkern"),
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
LIMIT = over("bnkern", "limit")


def values(cases: Iterable[Case], ratio: Ratio) -> list[float]:
    return [value for case in cases if (value := ratio(case)) is not None and value > 0]


def mean(cases: Iterable[Case], ratio: Ratio) -> float | None:
    """Geometric mean."""
    found = values(cases, ratio)
    return exp(sum(map(log, found)) / len(found)) if found else None


def sized(cases: list[Case], least: float, most: float = float("inf")) -> list[Case]:
    return [case for case in cases if least <= case["size"] < most]


# --- tables -----------------------------------------------------------------------------------------------


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in report["cases"]:
        groups.setdefault((case["dtype"], case["op"], case["layout"]), []).append(case)
    parts = [head(report["machine"])]
    if groups:
        parts += [
            "## Against the limit",
            AGAINST,
            summary(groups),
            "## Against other libraries",
            OTHERS,
            compared(groups),
        ]
        parts += [
            "## Other ways to call it",
            WAYS,
            variants(groups),
            sixteen(groups),
            networks(report["cases"]),
        ]
    if report["small"]:
        parts += ["## Small calls", SMALL, small(report["small"])]
    for (dtype, op, layout), cases in groups.items():
        parts += [f"## {op}, {layout}, {dtype}", layers(cases)]
    return "\n\n".join(part for part in parts if part)


AGAINST = """\
Times the limit: all threads copying the same bytes with non-temporal stores, for backward and frozen a
triad (dx = x + dy). Geometric means, over layers by the size of x. frozen is dx alone from frozen
statistics: it moves two thirds of the triad's bytes. stats reads half of what a copy moves."""
OTHERS = """\
How many times as long the others take. torch is called warm (it writes to memory that exists); torch fresh
makes its result, as do JAX and NumPy, and stands against bnkern that does too. Geometric means over layers
of 16 MB or more, in brackets over those of 1 to 16 MB."""
WAYS = """\
As multiples of the plain call's time, for layers of 16 MB or more; a residual (with ReLU) in times of its own
read; one thread beside all of them, for bnkern and for the limit."""
SMALL = """\
With new results, microseconds; torch is `torch.nn.functional.batch_norm` without autograd, for backward its
kernel."""


def head(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    return (
        f"# bnkern {machine['bnkern']} on {machine['processor']}, {machine['date']}\n\n"
        f"Threads: {machine['threads']}, {machine['isa']}, {machine['compiler']}, Python {machine['python']}, "
        f"{packages}. Load average before: {machine['load before']}. Calls interleaved."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def summary(groups: dict[tuple[str, str, str], list[Case]]) -> str:
    header = ("dtype, op, layout", "16 MB or more", "worst of them", "1 to 16 MB", "worst of them", "smaller")
    rows = []
    for key, cases in groups.items():
        big, medium = sized(cases, BIG), sized(cases, MEDIUM, BIG)
        means = [number(mean(part, LIMIT)) for part in (big, medium, sized(cases, 0, MEDIUM))]
        rows.append((", ".join(key), means[0], worst(big), means[1], worst(medium), means[2]))
    return table(header, rows)


def worst(cases: list[Case]) -> str:
    if not values(cases, LIMIT):
        return "-"
    case = max(cases, key=lambda c: LIMIT(c) or 0)
    return f"{number(LIMIT(case))} {case['layer']}"


def compared(groups: dict[tuple[str, str, str], list[Case]]) -> str:
    names = [n for n, ratio in COMPARED.items() if any(values(cases, ratio) for cases in groups.values())]
    rows = []
    for key, cases in groups.items():
        cells = []
        for name in names:
            big, medium = (mean(part, COMPARED[name]) for part in (sized(cases, BIG), sized(cases, MEDIUM, BIG)))
            cells.append("-" if big is None and medium is None else f"{number(big)} ({number(medium)})")
        rows.append((", ".join(key), *cells))
    return table(("dtype, op, layout", *names), rows) if names else "No other library took part."


def variants(groups: dict[tuple[str, str, str], list[Case]]) -> str:
    rows = [
        (", ".join(key), *(number(mean(sized(cases, BIG), ratio)) for ratio in VARIANTS.values()))
        for key, cases in groups.items()
        if sized(cases, BIG)
    ]
    return table(("dtype, op, layout", *VARIANTS), rows) if rows else "No layer is that large."


def sixteen(groups: dict[tuple[str, str, str], list[Case]]) -> str:
    """Other dtypes' times over float32's for the same layer."""
    rows = []
    for (dtype, op, layout), cases in groups.items():
        single = {case["layer"]: case for case in groups.get(("float32", op, layout), [])}
        pairs = [(case, single[case["layer"]]) for case in cases if case["layer"] in single]
        ratios = [
            a / b for c, s in pairs if (a := time_of(c, "bnkern")) and (b := time_of(s, "bnkern")) and s["size"] >= BIG
        ]
        if dtype != "float32" and ratios:
            rows.append(
                (
                    f"{dtype}, {op}, {layout}",
                    number(exp(sum(map(log, ratios)) / len(ratios))),
                    number(max(ratios)),
                )
            )
    if not rows:
        return ""
    text = "Time over float32's, layers of 16 MB or more in float32:"
    return text + "\n\n" + table(("dtype, op, layout", "geometric mean", "worst"), rows)


def networks(cases: list[Case]) -> str:
    """What all batch normalisation of a network takes in a step: its layers, as often as it has them.

    Of networks that are listed with more than one layer, and were measured whole.
    """
    listed = Counter(layer.name.partition("/")[0] for layer in load())
    sums: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        if "/" in case["layer"]:
            key = (case["layer"].partition("/")[0], case["dtype"], case["op"], case["layout"])
            sums.setdefault(key, []).append(case)
    whos = ("limit", "bnkern", "torch", "onednn")
    rows = []
    for key, members in sums.items():
        if len(members) == listed[key[0]] > 1 and key[2] in ("train", "backward", "inference"):
            totals = [[(time_of(case, who), case["times"]) for case in members] for who in whos]
            cells = [
                "-" if any(t is None for t, _ in part) else f"{1e3 * sum(t * n for t, n in part):.1f}"
                for part in totals
            ]  # type: ignore[operator]
            rows.append((", ".join(key), *cells))
    if not rows:
        return ""
    return "All layers of a network, milliseconds:\n\n" + table(("network", *whos), rows)


def small(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        mine, torch = time_of(case, "bnkern"), time_of(case, "torch")
        assert mine is not None
        shape = ",".join(map(str, case["shape"]))
        beside = ("-", "-") if torch is None else (f"{1e6 * torch:.1f}", f"{mine / torch:.2f}")
        rows.append((f"({shape}) {case['op']}", f"{1e6 * mine:.1f}", *beside))
    return table(("call", "bnkern", "torch", "bnkern / torch"), rows)


def layers(cases: list[Case]) -> str:
    """One line for each layer: size, times, and who takes how long."""
    names = [name for name, ratio in COMPARED.items() if values(cases, ratio)]
    rows = []
    for case in cases:
        mine, limit = time_of(case, "bnkern"), time_of(case, "limit")
        assert mine is not None
        assert limit is not None
        rows.append(
            (
                case["layer"], "x".join(map(str, case["shape"])), f"{case['size'] / 1e6:.3g}",
                f"{1e3 * limit:.3g}", f"{1e3 * mine:.3g}", f"{case['bytes'] / mine / 1e9:.1f}",
                number(mine / limit), *(number(COMPARED[name](case)) for name in names), told(case["how"]),
            )
        )  # fmt: skip
    header = ("layer", "shape", "MB", "limit ms", "bnkern ms", "GB/s", "x limit", *names, "how")
    return table(header, rows)


def told(how: dict[str, Any]) -> str:
    """Strategy, stores and threads, as far as bnkern tells them."""
    words = [str(how[key]) for key in ("strategy", "stores") if how.get(key)]
    if "threads" in how:
        words.append("1 thread" if how["threads"] == 1 else f"{how['threads']} threads")
    return ", ".join(words)

"""What is measured: layers in both layouts and all dtypes; each operation with limit, variants and rivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import layers
import rivals
from layers import Layer

from bnkern import get_num_threads
from bnkern._dtypes import DTYPES
from bnkern.cli.measure import LAYOUTS, OPS, Call, Case, kernel, limit, with_threads

NAMES = {"nchw": LAYOUTS[0], "nhwc": LAYOUTS[1]}
DTYPES = DTYPES
MAIN_OPS = ("inference", "train", "backward")
QUICK = ("tiny", "online/tile")
# Layers from all parts of the list, for what would take too long on all of it: other dtypes, ReLU, one thread.
SELECTED = ("resnet50/conv2_wide", "resnet50/conv3", "resnet50/conv4_wide", "resnet50/conv5", "mlp/fat")
VARIANTS = ("none", "fresh", "all")


class Problem(NamedTuple):
    layer: Layer
    layout: str  # nchw or nhwc, whatever the rank
    dtype: str

    def __str__(self) -> str:
        return f"{self.layer.name}-{self.layout}-{self.dtype}"


def problems(
    wanted: Sequence[Layer] | None = None,
    layouts: Sequence[str] = tuple(NAMES),
    dtypes: Sequence[str] = DTYPES,
) -> Iterator[Problem]:
    """All combinations; a matrix (N, C) has its channels last in any case, and comes once."""
    for dtype in dtypes:
        for layout in layouts:
            for layer in layers.load() if wanted is None else wanted:
                if len(layer.shape) > 2 or layout == "nhwc":
                    yield Problem(layer, layout, dtype)


def selected() -> list[Layer]:
    return [layer for layer in layers.load() if layer.name in SELECTED]


def calls(case: Case, op: str, names: list[str], variants: str = "all") -> dict[str, Call]:
    """What is timed together: bnkern, its limit, other ways to call bnkern, and the rivals `names`."""
    found = {"limit": limit(case, OPS[op]), "bnkern": kernel(case, op)}
    if variants != "none" and op != "stats":
        found["bnkern fresh"] = kernel(case, op, fresh=True)
    if variants == "all" and op != "stats":
        found["bnkern relu"] = kernel(case, op, relu=True)
        found["bnkern residual"] = kernel(case, op, residual=True)
    if variants == "all" and get_num_threads() > 1:
        found["bnkern 1 thread"] = with_threads(1, kernel(case, op))
        found["limit 1 thread"] = limit(case, OPS[op], threads=1)
    return found | rivals.calls(case, op, names)

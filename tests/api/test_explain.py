"""`explain` tells the strategy of a call by the name that the plan gives it, whatever strategies there are."""

import re

import numpy as np
import pytest

import bnkern
from bnkern._native import plan as plans

OPS = ("train", "inference", "backward", "frozen", "stats")
ARRAYS = {shape: np.zeros(shape, np.float32) for shape in ((64, 512, 9), (8, 32, 1024), (512, 64), (64, 4, 4096))}


def names():
    """All strategies, as the plan lists them where it is asked for one that it does not have."""
    try:
        plans.forced(strategy="?")
    except ValueError as error:
        return re.search(r"some of (.*), joined", str(error))[1].split(", ")


@pytest.mark.parametrize("name", names())
def test_it_names_every_strategy(name):
    """Reductions and elementwise passes, each somewhere among these arrays when it is forced."""
    with plans.forced(strategy=name):
        told = [bnkern.explain(x, 1, op) for x in ARRAYS.values() for op in OPS]
    assert any(name in found.strategy.split(" + ") for found in told)
    assert all(f"  strategy {found.strategy}\n" in str(found) for found in told)


@pytest.mark.parametrize("op", OPS)
def test_a_call_of_two_passes_has_two(op):
    told = [bnkern.explain(x, 1, op).strategy for x in ARRAYS.values()]
    assert {strategy.count(" + ") for strategy in told} == {1 if op in ("train", "backward") else 0}
    assert set(" + ".join(told).split(" + ")) <= set(names())

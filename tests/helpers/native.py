"""The compiled entry point with named operands, and the strategies and machines that tests force on it."""

from types import SimpleNamespace

from bnkern._native import cpu

PASSES = {
    "stats": cpu.STATS,
    "reduce": cpu.REDUCE,
    "normalise": cpu.NORMALISE,
    "input_grad": cpu.INPUT_GRAD,
    "train": cpu.STATS | cpu.NORMALISE,
    "backward": cpu.REDUCE | cpu.INPUT_GRAD,
}
RESULTS = ("out", "mean", "var", "sum_dy", "sum_dy_xhat", "dresidual")
OPERANDS = (
    *("x", "dy", "residual", "y", "out"),
    *("mean", "var", "weight", "bias", "sum_dy", "sum_dy_xhat"),
)
OPTIONS = {"axis": 1, "eps": 1e-5, "count": 1, "frozen": False, "activation": 0, "parameter": 0.0}


def call(**given):
    """What `run` reads of a call: operands that are not given are None."""
    return SimpleNamespace(**dict.fromkeys(OPERANDS) | OPTIONS | given)


def run(passes, *, threads=1, dresidual=False, **given):
    """{name: result} of `cpu.run`, or None where the arrays have no layout in common."""
    found = cpu.run(call(**given), PASSES.get(passes, passes), threads, dresidual)
    return found and dict(zip(RESULTS, found, strict=True))

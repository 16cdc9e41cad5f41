"""The entry points of the CPU kernels."""

from bnkern._native._cpu import (  # noqa: F401
    backward,
    inference,
    input_grad,
    layout,
    limit,
    plan_of,
    reduce,
    run,
    stats,
    train,
)

STATS, REDUCE, NORMALISE, INPUT_GRAD = 1, 2, 4, 8

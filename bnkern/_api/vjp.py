"""Forward and backward joined: the backward function remembers everything that the forward call was given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Never

import numpy as np

from bnkern._activations import ActivationSpec
from bnkern._api.backward import batch_norm_backward
from bnkern._api.forward import batch_norm_inference, batch_norm_train
from bnkern._dtypes import Array
from bnkern._types import BatchNormGrads, BatchStats
from bnkern._vectors import copied
from bnkern._words import by_position, named_arguments
from bnkern.arrays import adopted, same_library
from bnkern.arrays.memory import shared
from bnkern.checks.parameters import switch
from bnkern.checks.problem import problem


class VJP:
    """The vector-Jacobian product of one forward call: `vjp(dy)` gives the gradients.

    It holds x, weight, bias, stats and, where a residual was added before an activation, y; they must not be changed
    before it is called. It may be called more than once.
    """

    __slots__ = ("_backward", "_usual", "_x", "stats")

    def __init__(self, x: Array, stats: BatchStats, usual: tuple[str, ...], backward: dict[str, Any]) -> None:
        self._x = x
        self.stats = stats
        self._usual = usual
        self._backward = backward

    def __call__(
        self, dy: Array, *misplaced: Never, needs: Collection[str] | None = None, out: Array | None = None
    ) -> BatchNormGrads:
        """Gradients for `dy`, the gradient with respect to y.

        Parameters
        ----------
        dy : array like x
        needs : collection of {"x", "weight", "bias", "residual"}, optional
            The gradients wanted; by default those of x and of what the forward call was given.
        out : array like x, optional
            Where to write dx, as in `batch_norm_backward`.

        Returns
        -------
        BatchNormGrads

        Raises
        ------
        TypeError, ValueError
            As `batch_norm_backward`, before anything is written.
        """
        if misplaced:
            raise TypeError("vjp takes dy by position and everything else by keyword: vjp(dy, needs=needs, out=out)")
        out = out if out is None else adopted("out", out)
        wanted = self._usual if needs is None else needs
        if "residual" not in self._usual and not isinstance(wanted, str) and "residual" in wanted:
            raise ValueError("needs: expected no 'residual', as the forward call was given none")
        if out is not None:
            for name, held in (("x", self._x), ("y", self._backward["y"])):
                if held is not None and type(held) is type(out) and shared(held, out):
                    raise ValueError(f"out: expected memory apart from {name}, which the next call reads, got {name}'s")
        return batch_norm_backward(dy, self._x, self.stats, needs=wanted, out=out, **self._backward)

    def __repr__(self) -> str:
        return f"<bnkern.VJP of x {tuple(self._x.shape)}, gradients of {', '.join(self._usual)}>"


@named_arguments
def batch_norm_vjp(
    x: Array, *misplaced: Never, training: bool = True, weight: Array | None = None, bias: Array | None = None,
    running_mean: Array | None = None, running_var: Array | None = None, axis: int = 1, eps: float = 1e-5,
    momentum: float | None = 0.1, num_batches: int | None = None, correction: float = 1,
    activation: ActivationSpec = None, residual: Array | None = None, out: Array | None = None,
) -> tuple[Array, BatchStats, VJP]:  # fmt: skip
    """Normalise, and get the function that computes the gradients: nothing has to be said twice.

    Parameters
    ----------
    x, weight, bias, axis, eps, activation, residual
        As in `batch_norm_train`.
    training : bool
        True: as `batch_norm_train`, running statistics updated in place where given. False: as `batch_norm_inference`
        with running_mean and running_var, which are required then; the gradient is that with frozen statistics.
    running_mean, running_var, momentum, num_batches, correction
        As in `batch_norm_train`; the last three are for training=True.
    out : array like x, optional
        Where to write y. Apart from x, which the gradients are computed from.

    Returns
    -------
    y : array like x
    stats : BatchStats
        The statistics that y was computed with; with training=False copies of the running ones, count None.
    vjp : callable
        `vjp(dy, *, needs=None, out=None) -> BatchNormGrads`; see `help(vjp)`.

    Raises
    ------
    TypeError
        If an array is of another library, device or dtype than x asks for, or an argument is given by position.
    ValueError
        As the forward call, and where `out` shares memory with x. Nothing has been written then.

    Examples
    --------
    >>> y, stats, vjp = bnkern.batch_norm_vjp(x, weight=weight, bias=bias, activation="relu")
    >>> dx, dweight, dbias, _ = vjp(dy)
    """
    if misplaced:
        raise by_position(batch_norm_vjp, misplaced)
    fixed = not switch("training", training)
    if type(x) is not np.ndarray:
        x = adopted("x", x)
    if out is not None:
        problem(x, axis, eps, activation)
        out = adopted("out", out)
        same_library("out", out, "x", x)
        if shared(x, out):
            raise ValueError("out: expected memory apart from x, from which the gradients are computed, got x's")
    same: dict[str, Any] = {"weight": weight, "bias": bias, "axis": axis, "eps": eps, "activation": activation}
    forward = same | {"residual": residual, "out": out, "running_mean": running_mean, "running_var": running_var}
    if fixed:
        y = batch_norm_inference(x, **forward)
        stats = BatchStats(copied(running_mean), copied(running_var), None)  # type: ignore[arg-type]
    else:
        options: dict[str, Any] = {"momentum": momentum, "num_batches": num_batches, "correction": correction}
        y, stats = batch_norm_train(x, **forward, **options)
    given = {"weight": weight, "bias": bias, "residual": residual}
    usual = ("x", *(name for name, a in given.items() if a is not None))
    backward = same | {"frozen": fixed, "y": y if residual is not None and activation is not None else None}
    return y, stats, VJP(x, stats, usual, backward)

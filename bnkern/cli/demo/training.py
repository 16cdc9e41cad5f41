"""Trains one network and records what the report and the picture show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import bnkern

from .data import Data
from .network import Network, Stopwatch

HIDDEN = (100, 100, 100)  # the paper's
SPREAD = 0.1  # standard deviation of the first weights
POINTS = 200  # evaluations in a run
PERCENTILES = (15, 50, 85)  # the paper's
UNIT = 0  # whose input is recorded: fixed beforehand, all are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user may choose; `rate` is the learning rate of both networks."""

    data: Path | None = None
    steps: int = 5000
    batch: int = 60
    rate: float = 0.5
    seed: int = 0
    out: Path = Path("bnkern-demo.png")


class History(NamedTuple):
    """One training run; `steps` are those after which the network was evaluated, 0 first."""

    steps: NDArray[np.intp]
    accuracy: NDArray[np.float64]  # on the test images, in [0, 1]
    percentiles: NDArray[np.float64]  # (len(steps), 3): of one last-layer unit's input over the test images
    seconds: float  # of training, evaluations left out
    norm_seconds: float  # of these, in batch normalisation

    @property
    def best(self) -> float:
        return float(self.accuracy.max())

    def first_reaching(self, accuracy: float) -> int | None:
        """The first recorded step with at least this accuracy; None when there is none."""
        reached = self.accuracy >= accuracy
        return int(self.steps[reached.argmax()]) if reached.any() else None


def train(
    data: Data, settings: Settings, *, normalise: bool, report: Callable[[int, float], None]
) -> History:
    """Train a network from the seed and call `report(step, accuracy)` after each evaluation.

    First weights and minibatches depend on the seed alone, so both networks get the same ones.
    """
    sizes = (data.train_images.shape[1], *HIDDEN, data.classes)
    first = np.random.default_rng([settings.seed, 0])
    network = Network(sizes, first, spread=SPREAD, normalise=normalise)
    batches = minibatches(len(data.train_labels), settings.batch, np.random.default_rng([settings.seed, 1]))
    every = max(1, settings.steps // POINTS)
    watch = Stopwatch()
    steps, accuracies, percentiles = [], [], []
    with one_thread():
        for step in range(settings.steps + 1):
            if step > 0:
                rows = next(batches)
                # A rate too high for the network ends in NaN: the accuracy tells, a warning need not.
                with watch, np.errstate(over="ignore", invalid="ignore"):
                    network.train(data.train_images[rows], data.train_labels[rows], settings.rate)
            if step % every == 0 or step == settings.steps:
                scores, inputs = network.inference(data.test_images)
                steps.append(step)
                accuracies.append(float(np.mean(scores.argmax(axis=1) == data.test_labels)))
                percentiles.append(np.percentile(inputs[:, UNIT], PERCENTILES))
                report(step, accuracies[-1])
    return History(
        np.array(steps), np.array(accuracies), np.array(percentiles), watch.seconds, network.watch.seconds
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which bnkern, and NumPy's matrix product where threadpoolctl is there, keep to one thread.

    Arrays this small gain nothing from a second thread, and on a busy machine they wait for it: steps were
    seen to take thirty times as long. (scikit-learn brings threadpoolctl along.)
    """
    blas: AbstractContextManager[object] = nullcontext()
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits

        blas = threadpool_limits(1, user_api="blas")
    with blas, bnkern.threads(1):
        yield


def minibatches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Rows of minibatches without end: each epoch a new shuffle, of which an incomplete rest is dropped."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]

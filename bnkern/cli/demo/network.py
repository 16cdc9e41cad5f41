"""The network of Ioffe and Szegedy, section 4.1, with batch normalisation or without, in plain NumPy.

Each layer computes sigmoid(n(h @ W)). Here n is either a bias or a batch normalisation: the two networks
differ in nothing else. A product that is normalised needs no bias of its own, since the mean takes it away
again; beta of the batch normalisation stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import bnkern

Array = NDArray[np.float32]


class Stopwatch:
    """Adds up the seconds spent in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self._start


class Step(Protocol):
    """What stands between a product and its sigmoid."""

    def train(self, u: Array) -> Array: ...
    def backward(self, dz: Array, rate: float) -> Array: ...
    def inference(self, u: Array) -> Array: ...


class Bias:
    """z = u + b."""

    def __init__(self, channels: int) -> None:
        self.bias = np.zeros(channels, np.float32)

    def train(self, u: Array) -> Array:
        return u + self.bias

    inference = train

    def backward(self, dz: Array, rate: float) -> Array:
        self.bias -= rate * dz.sum(axis=0)
        return dz


class BatchNorm:
    """z = gamma * (u - mean) / sqrt(var + eps) + beta: bnkern's layer, with the time it takes."""

    def __init__(self, channels: int, watch: Stopwatch) -> None:
        self.layer = bnkern.BatchNorm(channels)
        self.watch = watch

    def train(self, u: Array) -> Array:
        with self.watch:
            return self.layer(u)

    def backward(self, dz: Array, rate: float) -> Array:
        layer = self.layer
        with self.watch:
            du = layer.backward(dz)
        layer.weight -= rate * layer.dweight  # type: ignore[operator]  # None without affine
        layer.bias -= rate * layer.dbias  # type: ignore[operator]
        return du

    def inference(self, u: Array) -> Array:
        return self.layer(u, training=False)


class Network:
    """Sigmoid layers under a softmax, trained by plain gradient descent on the cross-entropy."""

    def __init__(
        self, sizes: Sequence[int], rng: np.random.Generator, *, spread: float, normalise: bool
    ) -> None:
        self.watch = Stopwatch()  # the time in batch normalisation while training
        self.weights = [rng.normal(0, spread, shape).astype(np.float32) for shape in pairwise(sizes)]
        hidden = sizes[1:-1]
        self.steps: list[Step] = [BatchNorm(n, self.watch) if normalise else Bias(n) for n in hidden]
        self.steps.append(Bias(sizes[-1]))

    def train(self, images: Array, labels: NDArray[np.intp], rate: float) -> None:
        """One step of gradient descent on one minibatch."""
        inputs = [images]
        for weight, step in zip(self.weights[:-1], self.steps, strict=False):
            inputs.append(sigmoid(step.train(inputs[-1] @ weight)))
        dz = softmax(self.steps[-1].train(inputs[-1] @ self.weights[-1]))
        dz[np.arange(len(labels)), labels] -= 1  # softmax and cross-entropy together: p - onehot
        dz /= len(labels)

        for layer in reversed(range(len(self.weights))):
            h, weight = inputs[layer], self.weights[layer]
            du = self.steps[layer].backward(dz, rate)
            if layer > 0:
                dz = (du @ weight.T) * h * (1 - h)
            weight -= rate * (h.T @ du)

    def inference(self, images: Array) -> tuple[Array, Array]:
        """The scores of the classes, and the input of the last hidden layer's sigmoids."""
        h = images
        for weight, step in zip(self.weights[:-1], self.steps, strict=False):
            z = step.inference(h @ weight)
            h = sigmoid(z)
        return self.steps[-1].inference(h @ self.weights[-1]), z


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), in the form that cannot overflow."""
    return 0.5 * np.tanh(0.5 * z) + 0.5


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

"""The lists of layers to measure on, for benchmarks and tests. A line: name, logical shape, how often."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent


class Layer(NamedTuple):
    """A layer of a network: its logical shape has channels second, whatever the layout in memory."""

    name: str
    shape: tuple[int, ...]
    times: int

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for n in self.shape:
            size *= n
        return size


def load(path: str | Path = FOLDER / "shapes.txt") -> list[Layer]:
    """All layers of a list; what follows a # is a comment."""
    layers = []
    for line in Path(path).read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            name, shape, times = words
            layers.append(Layer(name, parse_shape(shape), int(times)))
    return layers


def parse_shape(text: str) -> tuple[int, ...]:
    """(32, 256, 56, 56) from 32,256,56,56."""
    shape = tuple(int(n) for n in text.split(","))
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape: expected at least two sizes such as 32,256,56,56, got {text!r}")
    return shape


def drawn(seed: int, number: int, least: int = 1 << 18, most: int = 1 << 25) -> list[Layer]:
    """Layers that nobody chose: sizes, channels and rows drawn evenly on a logarithmic scale.

    `least` and `most` are numbers of values (1 to 134 MB in float32). One in five is a matrix, half of the others have
    channels in sixteens as networks like them.
    """
    rng, found = random.Random(seed), []
    while len(found) < number:
        size = _between(rng, least, most)
        if rng.random() < 0.2:
            channels = _between(rng, 8, 16384)
            shape: tuple[int, ...] = (size // channels, channels)
        else:
            channels, side = _between(rng, 3, 2048), _between(rng, 4, 160)
            if rng.random() < 0.5:
                channels = -(-channels // 16) * 16
            shape = (size // (channels * side * side), channels, side, side)
        if shape[0] and least <= math.prod(shape) <= most:
            found.append(Layer(f"drawn/{'x'.join(map(str, shape))}", shape, 1))
    return found


def _between(rng: random.Random, least: int, most: int) -> int:
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))

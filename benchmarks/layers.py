"""The lists of layers to measure on, for benchmarks and tests. A line: name, logical shape, how often."""

from __future__ import annotations

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

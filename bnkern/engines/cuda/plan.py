"""How the GPU kernels share out an array: pure arithmetic, without CuPy, so that it is tested where no GPU is.

An array is (outer, channels, inner) in memory order. It is cut into slots of 16 bytes, slots into units (see
src/cuda/walk.cuh). The cut depends on the shape and on where x begins relative to 16 bytes, never on the device, so
neither do the results: a device decides only how many units are at work at once and what stays on chip.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

THREADS, UNROLL, COLUMNS = 256, 4, 64  # BN_THREADS, BN_UNROLL, BN_COLUMNS
WARPS = THREADS // 32
SLOT = 16  # bytes

REDUCTION, MERGE, ELEMENTWISE = 1, 2, 4  # BN_PHASE_REDUCTION ...: the phases of a pass

ROWS_UNITS = 16_384  # of a warp: about four for each warp of the largest GPUs, so that the last round is a small part
COLUMNS_UNITS = 2_048  # of a block of eight warps
MOST_PARTIALS = 8_192  # of one channel; a block merges 32 a thread
SHORT_ROW = 128  # bytes: below, channels-first rows would share most slots, and are taken as columns
FEW_ROWS = 16  # below, columns would have nothing to sum


class Geometry(NamedTuple):
    """The fields of src/cuda/args.cuh, in its order, after the layout."""

    layout: str  # "cf": units are segments of a channel; "cl": of the rows of a panel
    size: int
    channels: int
    inner: int  # elements of a channel that are adjacent
    offset: int  # elements between the 16-byte boundary at or below x, and x
    row_slots: int
    rows: int
    segment: int  # slots (cf) or rows (cl) of a unit
    segments: int  # of a channel (cf), of the rows (cl)
    units: int
    steps: int  # of UNROLL slots for each thread, in a unit
    columns: int  # slots side by side that a block takes (cl)
    lines: int  # rows that it takes at once (cl)
    partials: int  # of a channel: what the merge adds up
    magic: int


class Limits(NamedTuple):
    """What of a device a launch depends on."""

    blocks: int  # resident blocks of this kernel, all multiprocessors together
    shared: int  # bytes of shared memory each of them can have
    cooperative: bool  # whether the grid may meet at a barrier


class Launch(NamedTuple):
    phases: int
    grid: int
    shared: int  # bytes
    keep: int  # slots that a thread keeps on chip, of each operand: whole bundles of UNROLL
    cooperative: bool


@lru_cache(maxsize=1024)
def normal_form(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, axis: int
) -> tuple[int, int, int] | None:
    """(outer, channels, inner) of an array without gaps, whatever the order of its axes in memory; else None.

    `strides` are in bytes; the array has elements.
    """
    axes = sorted((a for a in range(len(shape)) if shape[a] > 1), key=lambda a: -strides[a])
    step = itemsize
    for a in reversed(axes):
        if strides[a] != step:
            return None
        step *= shape[a]
    if axis not in axes:  # a single channel
        return 1, 1, prod(shape)
    place = axes.index(axis)
    return prod(shape[a] for a in axes[:place]), shape[axis], prod(shape[a] for a in axes[place + 1 :])


def same_order(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether strides differ at most where an axis has a single element."""
    return a == b or all(n == 1 or s == t for n, s, t in zip(shape, a, b, strict=True))


@lru_cache(maxsize=1024)
def geometry(outer: int, channels: int, inner: int, itemsize: int, offset: int) -> Geometry:
    """The cut of an array that begins `offset` elements after a 16-byte boundary."""
    if inner == 1 or (inner * itemsize < SHORT_ROW and outer >= FEW_ROWS):
        return _columns(outer, channels, inner, SLOT // itemsize, offset)
    return _rows(outer, channels, inner, SLOT // itemsize, offset)


def _rows(outer: int, channels: int, inner: int, v: int, offset: int) -> Geometry:
    row_slots = inner // v if inner % v == 0 and offset == 0 else (inner + 2 * v - 2) // v
    slots = outer * row_slots
    segment = max(_ceil(channels * slots, ROWS_UNITS), _ceil(slots, MOST_PARTIALS // 2))
    segment = _multiple(min(segment, slots), 32 * UNROLL)
    segments = _ceil(slots, segment)
    return Geometry(
        "cf", outer * channels * inner, channels, inner, offset, row_slots, outer, segment, segments,
        channels * segments, segment // (32 * UNROLL), 1, 1, segments, _magic(row_slots),
    )  # fmt: skip


def _columns(outer: int, channels: int, inner: int, v: int, offset: int) -> Geometry:
    width, size = channels * inner, outer * channels * inner
    common = gcd(width, v)
    row_slots, repeats = width // common, v // common  # a row of slots is `repeats` rows of the matrix
    rows = _ceil(offset + size, row_slots * v)
    panels = _ceil(row_slots, COLUMNS)
    columns = _ceil(row_slots, panels)
    lines = THREADS // columns
    segment = max(_ceil(rows * panels, COLUMNS_UNITS), _ceil(rows * repeats * inner, MOST_PARTIALS))
    segment = _multiple(min(segment, rows), lines * UNROLL)
    segments = _ceil(rows, segment)
    return Geometry(
        "cl", size, channels, inner, offset, row_slots, rows, segment, segments, panels * segments,
        segment // (lines * UNROLL), columns, lines, segments * repeats * inner, _magic(row_slots),
    )  # fmt: skip


def launches(g: Geometry, phases: int, operands: int, base: int, limits: Limits) -> tuple[Launch, ...]:
    """The launches of a pass: one for all phases where the grid can meet, else one for each.

    `operands` are the arrays that both sweeps read, `base` the bytes of shared memory that a block needs at least.
    """
    workers = WARPS if g.layout == "cf" else 1  # of a block
    needed = _ceil(g.units, workers)
    if phases in (REDUCTION, MERGE, ELEMENTWISE) or not limits.cooperative:
        each = [phase for phase in (REDUCTION, MERGE, ELEMENTWISE) if phases & phase]
        return tuple(Launch(phase, min(needed, 2**31 - 1), base, 0, False) for phase in each)
    grid, keep = min(needed, limits.blocks), 0
    if phases & REDUCTION and phases & ELEMENTWISE:
        slots = _ceil(g.units, grid * workers) * g.steps * UNROLL
        keep = max(0, min(slots, (limits.shared - base) // (operands * THREADS * SLOT))) // UNROLL * UNROLL
    return (Launch(phases, grid, base + keep * operands * THREADS * SLOT, keep, True),)


def partial_bytes(g: Geometry) -> int:
    """Scratch for the units' results: at most three float64 for each segment of a channel."""
    return 24 * g.channels * g.partials


def shared_bytes(layout: str, itemsize: int) -> int:
    """What a block needs at least: sizeof(Unit::Shared) in src/cuda/unit.cuh."""
    if layout == "cf":
        return 2 * WARPS * 8
    v, arithmetic = SLOT // itemsize, max(itemsize, 4)
    return 7 * v * COLUMNS * arithmetic + 4 * THREADS * 8


def _magic(d: int) -> int:
    return ((2**64 - 1) // d + 1) % 2**64


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _multiple(a: int, b: int) -> int:
    return _ceil(a, b) * b

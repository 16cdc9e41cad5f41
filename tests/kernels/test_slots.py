"""Every slot of every table against the level "reference", alone, in this process, bit for bit.

Sizes lie around every edge: a vector, the 16 lanes, a cache line, a sub-block, a block, a strip of coefficients.
Outputs are compared with all that lies around them, so a byte too many is seen; with helpers/guarded_slots.py, which
puts every array beside a forbidden page, a read too far is fatal.
"""

import itertools

import numpy as np
import pytest
from helpers import slots, support
from helpers.slots import ACTIVATIONS, BLOCK, FROZEN, PAD, STREAM, SUB, TILE

from bnkern._native import kernels

LEVELS = kernels.levels()
each_table = pytest.mark.parametrize(
    ("dtype", "level"), list(itertools.product(slots.DTYPES, LEVELS)), ids=lambda value: value
)
REDUCE = [(name, given) for name in ACTIVATIONS for given in ([False] if name == "identity" else [False, True])]


def tables(dtype, level):
    return slots.table(dtype, level), slots.table(dtype, "reference")


def same(a, b):
    return slots.bits(a) == slots.bits(b)


# ---------------------------------------------------------------- reductions, channels first

LENGTHS = [*range(1, 35), 63, 64, 65, SUB - 1, SUB, SUB + 1, 2 * SUB + 5, 1000, BLOCK - 17, BLOCK - 1, BLOCK]


def row_lengths(n):
    """Rows of one length, of 16 and more, that end in every lane; the last may be any rest."""
    return [r for r in (n, 16, 17, 23, 31, 48, 49, SUB, SUB + 1) if 16 <= r <= n] or [n]


def cuts(n, row):
    """(at, n) of the runs of a block of n elements in rows of `row`; a rest joins the last row: rows are no shorter."""
    starts = list(range(0, n, row))
    if len(starts) > 1 and n - starts[-1] < 16:
        starts.pop()
    return [(at, (starts[i + 1] if i + 1 < len(starts) else n) - at) for i, at in enumerate(starts)]


def rows_apart(x, pieces, offset):
    """Each run in memory of its own, `offset` elements after a cache line, 16 readable elements before its end."""
    found = []
    for at, n in pieces:
        lead = max(0, 16 - n)
        memory = slots.aligned(lead + n, x.dtype, offset, fill=0)
        memory[lead:] = x[at : at + n]
        found.append(memory[lead:])
    return found


@each_table
def test_moments_channels_first(dtype, level):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(1)
    for k, n in enumerate(LENGTHS):
        x = 3 + slots.numbers(dtype, n, rng)
        for row in row_lengths(n):
            pieces = cuts(n, row)
            where = rows_apart(x, pieces, k % 5)
            runs = [(at, length, memory) for (at, length), memory in zip(pieces, where, strict=True)]
            block = slots.copy(x, k % 3)
            got, want = slots.moments_cf(fast, block, runs), slots.moments_cf(plain, block, runs)
            assert got[0] == want[0], (n, row)
            assert same(got[1], want[1]), (n, row)
            if dtype != "f64" and n > 64:
                assert got[1][0] == pytest.approx(block.astype(float).mean(), rel=1e-3), "the reference is no oracle"


@each_table
@pytest.mark.parametrize("kind", ["constant", "step", "huge", "tiny", "special", "zeros"])
def test_moments_where_digits_are_lost(dtype, level, kind):
    """Both layouts go over the block again: about the mean, in float64."""
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(2)
    again = 0
    for n in (1, 2, 7, 8, 9, 16, 33, SUB + 3, BLOCK):
        x = slots.numbers(dtype, n, rng, special=kind == "special").astype(np.float64)
        x = {
            "constant": lambda x: 0 * x + 1.5,
            "step": lambda x: np.where(np.arange(x.size) < 9, 1e3, 1) + x / 64,
            "huge": lambda x: x * (1e20 if dtype in ("f32", "bf16") else 1e160 if dtype == "f64" else 1e4),
            "tiny": lambda x: x * (1e-30 if dtype in ("f32", "bf16") else 1e-200 if dtype == "f64" else 1e-6),
            "special": lambda x: x,
            "zeros": lambda x: 0 * x,
        }[kind](x)
        with np.errstate(all="ignore"):
            x = slots.copy(x.astype(slots.DTYPES[dtype]))
        got, want = (slots.moments_cf(t, x, [(0, n, rows_apart(x, [(0, n)], 0)[0])]) for t in (fast, plain))
        assert got[0] == want[0]
        assert same(got[1], want[1]), n
        again += not got[0]
        for width in (1, 3, 20):
            matrix = slots.copy(np.repeat(x, width))
            a, b = (slots.columns(t, n, width, matrix) for t in (fast, plain))
            assert same(a, b), (n, width)
            assert all(same(a[:, c], got[1]) for c in range(width)), "both layouts agree"
    assert again or kind in ("huge", "tiny", "special")


@each_table
@pytest.mark.parametrize(("activation", "from_y"), REDUCE)
def test_reduce_channels_first(dtype, level, activation, from_y):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(3)
    for k, n in enumerate(LENGTHS):
        x, dy, y = (slots.numbers(dtype, n, rng, special=k % 7 == 6) for _ in range(3))
        coef = slots.coefs_of(dtype, 1, rng)
        for row in row_lengths(n):
            pieces = cuts(n, row)
            memory = [rows_apart(a, pieces, k % 5 + i) for i, a in enumerate((x, dy, y))]
            runs = [(*piece, *(m[i] for m in memory)) for i, piece in enumerate(pieces)]
            runs = [run if from_y else (*run[:4], None) for run in runs]
            got, want = (slots.reduce_cf(t, n, runs, coef, ACTIVATIONS[activation]) for t in (fast, plain))
            assert same(got, want), (n, row)


# ---------------------------------------------------------------- reductions, channels last

WIDTHS = [*range(1, 20), 31, 32, 33, 63, 64, 65, 80, 127, 129, 300]
HEIGHTS = [1, 2, 7, 8, 15, 16, 17, 40, 64, 65, 100, SUB - 1, SUB, SUB + 1, 2 * SUB + 70]
MATRICES = [
    *((rows, width) for i, width in enumerate(WIDTHS) for rows in HEIGHTS[i % 3 :: 3]),
    (BLOCK, 3),
    (BLOCK, 33),
    (3, slots.GROUP),
]


def matrix(a, rows, width, gap, offset):
    memory = slots.aligned(rows * (width + gap) - gap, a.dtype, offset, fill=0)
    rest = np.lib.stride_tricks.as_strided(memory, (rows, width), ((width + gap) * a.itemsize, a.itemsize))
    rest[...] = a.reshape(rows, width)
    return memory


@each_table
def test_moments_channels_last(dtype, level):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(4)
    for k, (rows, width) in enumerate(MATRICES):
        x = 2 + slots.numbers(dtype, rows * width, rng)
        for gap in (0, 1 + k % 20):
            memory = matrix(x, rows, width, gap, k % 17)
            got, want = (slots.columns(t, rows, width, memory, strides=(width + gap,) * 3) for t in (fast, plain))
            assert same(got, want), (rows, width, gap)


@each_table
@pytest.mark.parametrize(("activation", "from_y"), REDUCE)
def test_reduce_channels_last(dtype, level, activation, from_y):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(5)
    for k, (rows, width) in enumerate(MATRICES):
        arrays = [slots.numbers(dtype, rows * width, rng, special=k % 7 == 6) for _ in range(3)]
        coef = slots.coefs_of(dtype, width, rng)
        for gaps in ((0, 0, 0), (1 + k % 20,) * 3, (0, 0, 3), (0, 5, 0)):
            x, dy, y = (matrix(a, rows, width, g, (k + g) % 17) for a, g in zip(arrays, gaps, strict=True))
            how = {"coef": coef, "activation": ACTIVATIONS[activation], "strides": [width + g for g in gaps]}
            got, want = (slots.columns(t, rows, width, x, dy, y if from_y else None, **how) for t in (fast, plain))
            assert same(got, want), (rows, width, gaps)


# ---------------------------------------------------------------- element by element

OPTIONS = {"normalise": [], "input_grad": []}
for name in ACTIVATIONS:
    OPTIONS["normalise"] += [(name, ("x",), 0), (name, ("x", "residual"), 0)]
    for frozen in (0, FROZEN):
        # y is read behind an activation alone; frozen without an activation no x is
        for y, dresidual in itertools.product(*[[False, True]] * 2) if name != "identity" else [(False, False)]:
            x = () if frozen and (y or name == "identity") else ("x",)
            operands = ("dy", *x, *(["y"] if y else []), *(["dresidual"] if dresidual else []))
            OPTIONS["input_grad"].append((name, operands, frozen))
VARIANTS = [(slot, *option) for slot, options in OPTIONS.items() for option in options]

# (rows, channels, width, gap): rows around the 8 that are done together, widths around every edge.
EDGES = [*range(1, 36), 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 193]
CHANNELS = [(1 + i % 3, 1 + i % 5, width, (0, 1, 7)[i % 3]) for i, width in enumerate(EDGES)] + [
    (2, 9, 49, 0),
    (1, 40, 17, 0),
    (1, 3, 1025, 0),
]
TILES = [((1, 8, 17, 9)[i % 4], 1, width, (0, 5, 64)[i % 3]) for i, width in enumerate(EDGES)] + [
    (9, 1, 256, 0),  # streamed rows that fall on the same places of the caches
    (8, 1, 512, 0),
    (9, 1, 1024, 0),
    (10, 1, 1024 + 33, 31),
    (3, 1, 2 * 1024 + 1, 64 - 1),
    (9, 1, 3 * 1024 + 5, 0),
]


def run(call, arrays, problem, stride, coef, flags, activation, offsets, **how):
    """The memory of all results, with what lies between their rows."""
    rows, channels, width = problem
    like = next(iter(arrays.values()))
    out = slots.aligned(like.size, like.dtype, offsets[0])
    dresidual = slots.aligned(like.size, like.dtype, offsets[1]) if "dresidual" in how.pop("operands") else None
    slots.elementwise(
        call, arrays, out, dresidual, coef, rows=rows, channels=channels, width=width, stride=stride, flags=flags,
        activation=ACTIVATIONS[activation], **how,
    )  # fmt: skip
    assert slots.surroundings_intact(out)
    assert dresidual is None or slots.surroundings_intact(dresidual)
    return [a for a in (out, dresidual) if a is not None]


@each_table
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v[0]}-{v[1]}-{'-'.join(v[2])}{'-frozen' * bool(v[3])}")
def test_elementwise(dtype, level, variant):
    slot, activation, operands, frozen = variant
    fast, plain = (getattr(t, slot) for t in tables(dtype, level))
    rng = np.random.default_rng(6)
    line = 64 // np.dtype(slots.DTYPES[dtype]).itemsize
    inputs = [name for name in operands if name != "dresidual"]
    for tile, problems in ((0, CHANNELS), (TILE, TILES)):
        for k, (rows, channels, width, gap) in enumerate(problems):
            stride = channels * width + gap
            size = rows * stride - gap
            arrays = {
                name: slots.copy(slots.numbers(dtype, size, rng, special=k % 5 == 4), (k + i) % 4)
                for i, name in enumerate(inputs)
            }
            coef = slots.coefs_of(dtype, width if tile else channels, rng)
            for streams, offset in ((0, k % 3), (STREAM, 0), (STREAM, (1, line // 2, line - 1)[k % 3])):
                how = {"operands": operands, "prefetch": 64 * (k % 2)}
                flags = tile | frozen | streams
                got, want = (
                    run(call, arrays, (rows, channels, width), stride, coef, flags, activation, (offset, k % 3), **how)
                    for call in (fast, plain)
                )
                for a, b in zip(got, want, strict=True):
                    assert same(a, b), (rows, channels, width, gap, flags, offset)


@each_table
@pytest.mark.parametrize("slot", ["normalise", "input_grad"])
def test_elementwise_in_place(dtype, level, slot):
    """The result may be the first operand's memory."""
    fast, plain = (getattr(t, slot) for t in tables(dtype, level))
    rng = np.random.default_rng(7)
    names = ("x",) if slot == "normalise" else ("dy", "x")
    for tile, problems in ((0, CHANNELS), (TILE, TILES)):
        for k, (rows, channels, width, gap) in enumerate(problems):
            size = rows * (channels * width + gap) - gap
            arrays = {name: slots.copy(slots.numbers(dtype, size, rng), k % 4) for name in names}
            coef = slots.coefs_of(dtype, width if tile else channels, rng)
            how = {"rows": rows, "channels": channels, "width": width, "stride": channels * width + gap, "flags": tile}
            results = []
            for call, apart in ((plain, True), (fast, False)):
                place = slots.copy(arrays[names[0]], 1)
                given = {**arrays, names[0]: arrays[names[0]] if apart else place}
                slots.elementwise(call, given, place, None, coef, activation=ACTIVATIONS["relu"], **how)
                results.append(place)
            assert same(*results), (rows, channels, width, gap, tile)
            assert slots.surroundings_intact(results[1])


@each_table
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "identity"])
def test_gradients_are_the_same_with_y_and_without(dtype, level, activation):
    """z is looked at as the forward pass stored it: here many a z is stored as 0."""
    table, _ = tables(dtype, level)
    rng = np.random.default_rng(11)
    n = 499
    how = {"rows": 1, "channels": 1, "width": n, "stride": n, "activation": ACTIVATIONS[activation]}
    smallest = float(slots.ml_dtypes.finfo(slots.DTYPES[dtype]).smallest_subnormal)
    for scale, bias in ((smallest, 0.0), (smallest / 4, 0.0), (-smallest, smallest), (3.0, 4.0), (0.5, 6.0)):
        x, dy = (slots.copy(slots.numbers(dtype, n, rng)) for _ in range(2))
        coef = slots.coefs_of(dtype, 1, rng)
        coef[:5, 0] = 0, 0, scale, bias, 1
        y = slots.aligned(n, x.dtype)
        slots.elementwise(table.normalise, {"x": x}, y, None, coef, flags=0, **how)
        sums, grads = [], []
        for given in (None, y):
            sums.append(slots.reduce_cf(table, n, [(0, n, x, dy, given)], coef, ACTIVATIONS[activation]))
            sums.append(slots.columns(table, n, 1, x, dy, given, coef, ACTIVATIONS[activation]).ravel())
            dx, dresidual = slots.aligned(n, x.dtype), slots.aligned(n, x.dtype)
            operands = {"x": x, "dy": dy} if given is None else {"x": x, "dy": dy, "y": given}
            slots.elementwise(table.input_grad, operands, dx, dresidual, coef, flags=0, **how)
            grads.append(np.concatenate([dx, dresidual]))
        assert len({a.tobytes() for a in sums}) == 1, (scale, bias)
        assert same(*grads), (scale, bias)


# ---------------------------------------------------------------- per channel, and the limits


@each_table
def test_coefficients(dtype, level):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(8)
    odd = [0.0, -0.0, 1e-300, 1e300, -1e39, 3.5e38, np.inf, -np.inf, np.nan]
    for n in (*range(1, 10), 16, 17, 64):
        mean, weight, bias, dy, dy_xhat = (10.0 ** rng.integers(-3, 4) * rng.standard_normal(n) for _ in range(5))
        var = rng.uniform(0, 2, n)
        for a in (mean, var, weight, bias, dy, dy_xhat):
            a[rng.integers(0, n)] = abs(odd[rng.integers(0, len(odd))]) if a is var else odd[rng.integers(0, len(odd))]
        for eps in (1e-5, 0.0, 1e-300):
            found = []
            for t in (fast, plain):
                coef = np.zeros((slots.ROWS_OF_COEFS, n + PAD), slots.arithmetic(dtype))
                pointers = [slots.address(a) for a in (mean, var)], [slots.address(a) for a in (weight, bias)]
                t.coefs_forward(slots.address(coef), n + PAD, n, *pointers[0], eps, *pointers[1])
                t.coefs_backward(slots.address(coef), n + PAD, n, slots.address(dy), slots.address(dy_xhat), 7.0)
                found.append(coef)
            assert found[0].tobytes() == found[1].tobytes(), "NaN too: one for all"
            assert not found[0][:, n:].any(), "nothing beyond the channels"
            rows = found[0][:, :n].astype(np.float64)
            for c in np.flatnonzero(np.isfinite(rows[[slots.SCALE, slots.INVSTD, slots.MEAN_HI]]).all(0)):
                rest = mean[c] - rows[slots.MEAN_HI, c]
                largest = float(np.finfo(coef.dtype).max)
                want = {slots.SHIFT: bias[c] - np.clip(rest * rows[slots.SCALE, c], -largest, largest)}
                want[slots.OFFSET] = np.clip(rest * rows[slots.INVSTD, c], -largest, largest)
                for row, value in want.items():
                    with np.errstate(over="ignore"):
                        value = float(coef.dtype.type(value))
                    assert rows[row, c] == pytest.approx(value, rel=1e-6, nan_ok=True), (row, c)


def merged(t, dtype, parts, coef, order):
    """(mean, var) or with coefficients (sum dy, sum dy * xhat) of parts [2][blocks, channels], in one of two orders."""
    a, b = (slots.copy(np.ascontiguousarray(part if order == "columns" else part.T)) for part in parts)
    blocks, channels = parts[0].shape
    steps = (channels, 1) if order == "columns" else (1, blocks)
    how = slots.Parts(slots.address(a), slots.address(b), *steps, blocks, channels, (blocks - 1) * BLOCK + 77)
    out = np.zeros((2, channels))
    if coef is None:
        t.merge_moments(how, slots.address(out), slots.address(out[1]))
    else:
        t.merge_sums(how, slots.address(coef), coef.shape[1], slots.address(out), slots.address(out[1]))
    return out


@each_table
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_blocks_to_channels(dtype, level, blocks):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(12)
    weights = np.array([BLOCK] * (blocks - 1) + [77.0])[:, None]
    for channels in (1, 2, 7, 8, 63, 64, 65, 200):
        mean, m2 = 5 + rng.standard_normal((blocks, channels)), rng.uniform(1, 2, (blocks, channels)) * weights
        coef = slots.coefs_of(dtype, channels, rng)
        coef[slots.OFFSET, ::2] = 0
        for special in (False, True):
            if special:
                mean[0, ::3], mean[-1, 1::3], m2[0, ::2] = np.inf, np.nan, -np.inf
            for table in (None, coef):
                found = [merged(t, dtype, (mean, m2), table, o) for t in (fast, plain) for o in ("columns", "rows")]
                assert all(same(a, found[0]) for a in found), (channels, special)
            sums = found[0]
            if not special:
                whole = (weights * mean).sum(0) / weights.sum()
                want = [whole, (m2 + weights * (mean - whole) ** 2).sum(0) / weights.sum()]
                np.testing.assert_allclose(merged(fast, dtype, (mean, m2), None, "columns"), want, rtol=1e-13)
                offset = coef[slots.OFFSET, :channels].astype(np.float64)
                want = [mean.sum(0), m2.sum(0) - offset * mean.sum(0)]
                np.testing.assert_allclose(sums, want, rtol=1e-12, atol=1e-12)
            else:  # nothing is added where nothing was lost: Inf stays Inf
                assert np.isposinf(sums[0, ::3]).all()
                assert np.isneginf(sums[1, ::2]).all()


@each_table
def test_tile_of_coefficients(dtype, level):
    rng = np.random.default_rng(9)
    parts = itertools.product(tables(dtype, level), (1, 2, 3, 17), (1, 3, 16), (1, 2, 5), (0, 2))
    for table, channels, repeat, times, first in parts:
        coef = slots.coefs_of(dtype, first + channels, rng)
        width = channels * repeat * times
        for rows in (4, slots.ROWS_OF_COEFS):
            tile = np.full((slots.ROWS_OF_COEFS, width + 3), -7, coef.dtype)
            table.coefs_tile(
                slots.address(tile), width + 3, slots.address(coef), coef.shape[1], rows, first, channels, repeat, times
            )
            want = np.tile(np.repeat(coef[:rows, first : first + channels], repeat, axis=1), times)
            assert np.array_equal(tile[:rows, :width], want)
            assert (tile[rows:] == -7).all()
            assert (tile[:, width:] == -7).all()


@each_table
def test_limits(dtype, level):
    fast, plain = tables(dtype, level)
    rng = np.random.default_rng(10)
    for k, n in enumerate([*range(1, 70), 1000]):
        x, dy = (slots.copy(slots.numbers(dtype, n, rng), (k + i) % 5) for i in range(2))
        for slot in ("stream_copy", "stream_triad"):
            got, want = slots.aligned(n, x.dtype, k % 7), slots.aligned(n, x.dtype)
            for t, out in ((fast, got), (plain, want)):
                span = slots.Span(x=slots.address(x), dy=slots.address(dy), out=slots.address(out), width=n)
                getattr(t, slot)(span)
            assert same(got, want), (slot, n)
            assert slots.surroundings_intact(got)


@support.linux_only
@support.skip_sanitised
@pytest.mark.parametrize("side", ["end", "beginning"])
def test_nothing_is_touched_beyond_an_array(python, side):
    """All of the above again, in a process of its own that dies otherwise."""
    done = python("from helpers import guarded_slots; import sys; guarded_slots.main(*sys.argv[1:])", side, __file__)
    assert int(done.stdout.split()[-1]) > 50


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"level: expected one of reference, .*got 'x86_v9'"):
        slots.table("f32", "x86_v9")
    with pytest.raises(ValueError, match="dtype: expected f32"):
        slots.table("f8", "reference")

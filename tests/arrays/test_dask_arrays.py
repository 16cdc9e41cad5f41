"""Dask arrays: graphs alone, any chunking, the results of the whole, and no scheduler asked before the user asks."""

import weakref

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework, refuse_to_compute

import bnkern

dask = of_framework("dask")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")


@pytest.fixture(autouse=True)
def _nothing_is_computed():
    with dask.config.set(scheduler=refuse_to_compute):
        yield


def computed(*arrays):
    return dask.compute(*arrays, scheduler="synchronous")


CHUNKS = {
    "one": -1,
    "batch": (2, -1, -1, -1),
    "channels": (-1, 2, -1, -1),
    "single values": (1, 1, 1, 1),
    "uneven": ((1, 4, 2), (3, 3), (5, 1), (2, 5)),
    "with empty ones": ((0, 7), (6,), (2, 0, 4), (7, 0)),
}


def everything(x, dy, w, b, r):
    y, stats = bnkern.batch_norm_train(x, weight=w, bias=b, residual=r, activation="relu")
    how = {"activation": "relu", "y": y, "needs": ("x", "weight", "bias", "residual")}
    grads = bnkern.batch_norm_backward(dy, x, stats, weight=w, bias=b, **how)
    sums = bnkern.backward_reduce(dy, x, stats, weight=w, bias=b)
    dx = bnkern.backward_apply(dy, x, stats, sums, weight=w, bias=b)
    frozen = bnkern.batch_norm_backward(dy, x, stats, weight=w, frozen=True, needs=("x",)).dx
    return y, stats.mean, stats.var, *grads, *sums, dx, frozen


@pytest.mark.parametrize("chunks", CHUNKS)
def test_any_chunking_is_the_whole(chunks):
    case = cases.make((7, 6, 6, 7), 1)
    plain = case.x, case.dy, case.weight, case.bias, case.residual
    x = da.from_array(case.x, chunks=CHUNKS[chunks])
    others = [da.from_array(a, chunks=4) for a in plain[1:]]  # chunked otherwise than x
    lazy = everything(x, *others)
    assert all(isinstance(a, da.Array) for a in lazy)
    assert lazy[0].chunks == lazy[3].chunks == x.chunks
    for got, want in zip(computed(*lazy), everything(*plain), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_one_chunk_gives_the_bits_of_numpy():
    case = cases.make((7, 6, 6, 7), 1)
    plain = case.x, case.dy, case.weight, case.bias, case.residual
    lazy = everything(*(da.from_array(a, chunks=-1) for a in plain))
    for i, (got, want) in enumerate(zip(computed(*lazy), everything(*plain), strict=True)):
        assert same_bits(got, want), i


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_the_scheduler_changes_no_bit(scheduler):
    case = cases.make((40, 6, 6, 7), 1)
    x = da.from_array(case.x, chunks=(1, 4, -1, -1))
    stats = bnkern.batch_stats(x)
    want = computed(*stats[:2])
    for got, expected in zip(dask.compute(*stats[:2], scheduler=scheduler), want, strict=True):
        assert same_bits(got, expected)


def test_digits_are_kept_over_many_chunks():
    """Offset 1e6, one chunk per sample: merged as (count, mean, M2), not as sums of squares."""
    x = (cases.make((64, 3, 50), 1, "float64").x + 1e6).astype(np.float32)
    mean, var = computed(*bnkern.batch_stats(da.from_array(x, chunks=(1, -1, -1)))[:2])
    wide = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, wide.mean((0, 2)).astype(float), rtol=1e-15)
    np.testing.assert_allclose(var, wide.var((0, 2)).astype(float), rtol=1e-6)


def test_the_other_functions_stay_lazy():
    case = cases.make((6, 5, 4), 1)
    x, mean, var = (da.from_array(a, chunks=3) for a in (case.x, case.bias, case.weight**2))
    stats = bnkern.merge_stats([bnkern.batch_stats(x[:2]), bnkern.batch_stats(x[2:])])
    running = bnkern.update_running(stats, running_mean=mean, running_var=var)
    folded = bnkern.fold_batch_norm(x[0], running_mean=mean, running_var=var)
    assert all(isinstance(a, da.Array) for a in (*stats[:2], *running, *folded))
    want = bnkern.update_running(bnkern.batch_stats(case.x), running_mean=case.bias, running_var=case.weight**2)
    for got, expected in zip(computed(*running), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_float64_without_a_warning():
    """NaN and overflow inside a chunk are results, not events."""
    x = np.full((4, 3, 5), 3e38, np.float32)
    x[0, 1, 2], x[:, 2] = np.nan, np.inf
    with np.errstate(all="raise"):
        y = computed(bnkern.batch_norm_train(da.from_array(x, chunks=2))[0])[0]
    assert np.array_equal(y[:, 0], np.zeros((4, 5)))
    assert np.isnan(y[:, 1:]).all()


# ---------------------------------------------------------------- what is refused


def test_unknown_chunk_sizes_are_refused_by_name():
    x = da.from_array(np.ones((4, 3), np.float32), chunks=2)
    with pytest.raises(ValueError, match=r"x: expected a known shape, got \(nan, 3\).*compute_chunk_sizes"):
        bnkern.batch_norm_train(x[da.from_array(np.ones(4, bool), chunks=2)])
    weight = da.from_array(np.ones(3), chunks=2)
    with pytest.raises(ValueError, match=r"weight: expected shape \(3,\)"):
        bnkern.batch_norm_train(x, weight=weight[weight > 0])


def test_chunks_of_other_libraries_are_refused_by_name():
    x = da.from_array(np.ones((4, 3), np.float32), chunks=2).map_blocks(np.ma.masked_array)
    with pytest.raises(TypeError, match="x: expected a Dask array of NumPy chunks, got one of MaskedArray"):
        bnkern.batch_norm_train(x)


def test_a_single_value_per_channel_is_refused_at_once():
    with pytest.raises(ValueError, match="x: expected more than one value per channel"):
        bnkern.batch_norm_train(da.ones((1, 3), chunks=1))


# ---------------------------------------------------------------- chunks that are made twice


def counted(loads):
    """Six chunks, and how often each has been made."""

    def load(block_info=None):
        k = block_info[None]["chunk-location"][0]
        loads[k] = loads.get(k, 0) + 1
        return cases.make((4, 3, 5), 1, seed=k).x

    return da.map_blocks(load, chunks=((4,) * 6, 3, 5), dtype="f4", meta=np.empty((0,) * 3, "f4"))


@pytest.mark.parametrize("reload", [False, True])
def test_reload_makes_chunks_anew_for_the_second_pass(reload):
    """The same bits; and no chunk of the second pass before the statistics are there."""
    loads = {}
    x = counted(loads)
    with dask.config.set({"bnkern.reload": reload}):
        y, _ = bnkern.batch_norm_train(x)
    got = computed(y)[0]
    assert loads == dict.fromkeys(range(6), 2 if reload else 1)
    assert same_bits(got, computed(bnkern.batch_norm_train(x)[0])[0])
    loads.clear()
    stats = bnkern.BatchStats(*computed(*bnkern.batch_stats(x)[:2]), 120)
    loads.clear()
    lent = stats._replace(mean=da.from_array(stats.mean), var=da.from_array(stats.var))
    with dask.config.set({"bnkern.reload": reload}):
        grads = bnkern.batch_norm_backward(x, x, lent)
    dx = computed(grads.dx)[0]
    assert loads == dict.fromkeys(range(6), 2 if reload else 1)
    assert same_bits(dx, computed(bnkern.batch_norm_backward(x, x, lent).dx)[0])


class Source:
    """Six chunks: how often each was made, and how many were in memory at once."""

    def __init__(self):
        self.made, self.alive, self.most = {}, 0, 0

    def load(self, k):
        self.made[k] = self.made.get(k, 0) + 1
        self.alive += 1
        self.most = max(self.most, self.alive)
        chunk = cases.make((4, 3, 5), 1, seed=k).x.copy()
        weakref.finalize(chunk, self.gone)
        return chunk

    def gone(self):
        self.alive -= 1

    def blockwise(self):
        def load(block_info=None):
            return self.load(block_info[None]["chunk-location"][0])

        return da.map_blocks(load, chunks=((4,) * 6, 3, 5), dtype="f4", meta=np.empty((0,) * 3, "f4"))

    def delayed(self):
        return [da.from_delayed(dask.delayed(self.load, pure=True)(k), (4, 3, 5), "f4") for k in range(6)]


ZEROS = da.zeros((24, 3, 5), dtype="f4", chunks=(4, 3, 5))
SOURCES = {  # x, and whether a few chunks at a time are held, as docs/distributed.md has it
    "map_blocks": (Source.blockwise, True),
    "elementwise": (lambda source: source.blockwise() * 2 + 1, True),
    "transpose": (lambda source: source.blockwise().transpose(0, 1, 2).transpose(2, 1, 0), True),
    "map_blocks of it": (lambda source: source.blockwise().map_blocks(np.negative), True),
    "from_delayed": (lambda source: da.concatenate(source.delayed()), False),
    "concatenate": (lambda source: da.concatenate([source.blockwise(), ZEROS]), False),
    "stack": (lambda source: da.stack([source.blockwise(), ZEROS], axis=2), False),
    "reshape": (lambda source: source.blockwise().reshape(24, 15), False),
    "rechunk": (lambda source: source.blockwise().rechunk((2, 3, 5)), False),
    "slice": (lambda source: source.blockwise()[:, :2], False),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_reload_works_for(name):
    """The results are the same in any case; the page says for what x is never held whole."""
    make, works = SOURCES[name]
    source = Source()
    x = make(source)
    want = computed(bnkern.batch_norm_train(x)[0])[0]
    with dask.config.set({"bnkern.reload": True}):
        y, _ = bnkern.batch_norm_train(x)
    assert same_bits(computed(y)[0], want)
    source.made.clear()
    source.most = source.alive = 0
    da.stack([block.sum() for block in y.blocks.ravel()]).sum().compute(scheduler="synchronous")
    shared = source.made == dict.fromkeys(range(6), 1)  # between the passes, so that something of it waits for both
    if works:
        assert source.made == dict.fromkeys(range(6), 2)
        assert source.most <= 2
    else:
        assert shared or source.most == 6


@pytest.mark.parametrize("option", ["false", "off", 1, None])
def test_reload_is_true_or_false(option):
    expected = r"bnkern.reload: expected True or False, got"
    with dask.config.set({"bnkern.reload": option}), pytest.raises(TypeError, match=expected):
        bnkern.batch_norm_train(da.ones((4, 3)))


def test_reload_takes_what_is_in_memory_from_there():
    loads = {}
    with dask.config.set(scheduler="synchronous"):
        x = counted(loads).persist()
    loads.clear()
    with dask.config.set({"bnkern.reload": True}):
        y, _ = bnkern.batch_norm_train(x)
    computed(y)
    assert loads == {}

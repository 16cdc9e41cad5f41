"""Overlap in memory, to the byte: what is not seen is overwritten, what is seen wrongly is refused."""

import numpy as np
import pytest
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern
from bnkern.arrays import known_library
from bnkern.arrays.memory import folded, same_places, shared, writable


def room(n=64):
    return np.arange(float(n), dtype=np.float32)


def test_doubt_counts_as_overlap():
    """Strides too wild to decide in bounded work: many sums, few of them equal."""
    memory = np.zeros(40_000_000, np.uint8)
    strides = (19_937, 26_009, 35_027, 40_009, 50_021, 60_013)
    a = np.lib.stride_tricks.as_strided(memory, (11,) * 6, strides)
    b = np.lib.stride_tricks.as_strided(memory[12_345:], (11,) * 6, tuple(s + 7 for s in strides))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(a, b, max_work=10_000)
    assert shared(a, b)


def test_same_places_is_address_strides_and_dtype():
    x = room().reshape(8, 8)
    assert same_places(x, x[:])
    assert not same_places(x, x.T)  # the same bytes, another order
    assert not same_places(x, x[::-1])
    assert not same_places(x, x.view(np.int32))
    assert not same_places(x, x.copy())
    assert same_places(x[:1], x[:1].T.reshape(1, 8))  # an axis of one element has no stride that counts


@pytest.mark.parametrize("make", [lambda a: a, lambda a: of_framework("torch").from_numpy(a)], ids=["numpy", "torch"])
def test_out_in_another_order_of_the_same_memory(make):
    """A square transposed view begins where x does: exactly x's bytes, and yet every element elsewhere."""
    memory = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    before = memory.copy()
    x = make(memory)
    with pytest.raises(ValueError, match="out: expected x itself or memory apart from it"):
        bnkern.batch_norm_train(x, out=x.T)
    assert same_bits(memory, before)


def test_tensors_that_touch_in_their_last_element():
    torch = of_framework("torch")
    memory = torch.arange(100.0)
    strided = torch.as_strided(memory, (4, 5), (7, 2))  # its last element is number 29
    last = memory[29:33]
    for a, b in ((strided, last), (last, strided)):
        assert shared(a, b)
        assert not known_library(a).apart(a, b)
    after = memory[30:34]
    assert known_library(strided).apart(strided, after)
    assert not shared(strided, after)

    x = torch.as_strided(torch.randn(100), (4, 5), (7, 2))
    running = torch.as_strided(x, (5,), (1,), 29)
    before = running.clone()
    with pytest.raises(ValueError, match=r"running_mean: .*shared with x"):
        bnkern.batch_norm_train(x, running_mean=running, running_var=torch.ones(5))
    assert torch.equal(running, before)


def test_folded_is_about_strides_alone():
    assert not folded(room().reshape(8, 8).T)
    assert folded(np.lib.stride_tricks.as_strided(room(), (4, 4), (4, 4)))
    assert folded(np.broadcast_to(room(1), (4,)))
    assert not folded(np.broadcast_to(room(1), (0,)))


def test_writable_names_the_remedy():
    fixed = room()
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected an array that can be written, got a read-only one; do that"):
        writable("out", fixed, "do that")
    writable("out", room()[::-2], "do that")


def test_arrays_apart_share_nothing():
    memory = room()
    assert not shared(memory[:8], memory[8:])
    assert shared(memory[:9], memory[8:])
    assert not shared(memory[::2], memory[1::2])
    assert not shared(memory, None)
    assert not shared(None, None)

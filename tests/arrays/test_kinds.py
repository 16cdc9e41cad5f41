"""The declaration of the kinds of array, and the dispatch that works by it."""

import numpy as np
import pytest
from bnkern._kinds import KINDS, OTHER
from bnkern.backends import Backend
from helpers import cases
from helpers.libraries import of_framework

import bnkern
from bnkern import _dispatch
from bnkern._dispatch import BACKENDS

PROTOCOL = [name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")]


@pytest.mark.parametrize("row", [*KINDS.values(), OTHER], ids=lambda kind: kind.title)
def test_a_kind_is_refused_or_goes_to_backends_in_their_order(row):
    assert bool(row.refused) != bool(row.backends)
    assert list(row.backends) == sorted(row.backends, key=BACKENDS.index)


def test_every_backend_serves_a_kind_and_has_every_function():
    assert {name for row in (*KINDS.values(), OTHER) for name in row.backends} == set(BACKENDS)
    assert len(PROTOCOL) == 9
    for name in BACKENDS:
        module = _dispatch._backend(name)
        assert [function for function in PROTOCOL if not callable(getattr(module, function, None))] == []


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_refuses_what_is_not_its_own_with_a_reason(name):
    """Without importing anything to look: the subprocess test of test_layers.py covers a NumPy user."""
    reason = _dispatch._backend(name).accepts(np.ones((2, 3)))
    assert (reason is None) == (name == "cpu")
    assert reason is None or "ndarray" in reason or "NumPy" in reason


def test_the_choice_is_remembered(monkeypatch):
    class Mine(np.ndarray):
        pass

    asked = []
    first = _dispatch._first_to_accept
    monkeypatch.setattr(_dispatch, "_first_to_accept", lambda x: asked.append(x) or first(x))
    x = np.ones((4, 3)).view(Mine)
    bnkern.batch_stats(x)
    bnkern.batch_stats(x.copy())
    assert len(asked) == 1


class Foreign:
    """An array of some library: array-api-strict's arithmetic under another name, attributes as given."""

    def __init__(self, library="foreign", **attributes):
        self.library = library
        vars(self).update(attributes)

    def __array_namespace__(self, api_version=None):
        xp = of_framework("array_api_strict")
        module = type(xp)(self.library)
        vars(module).update({name: getattr(xp, name) for name in xp.__all__})
        return module


def test_sparse_arrays_are_refused_by_name():
    class Coo(Foreign):
        pass

    with pytest.raises(TypeError, match=r"x: .*got Coo of shape .*densify it first"):
        bnkern.batch_norm_train(Coo("sparse", shape=(4, 3), dtype="float32"))


def test_shapes_that_are_not_known_yet_are_refused_by_name():
    with pytest.raises(ValueError, match=r"x: expected a known shape, got \(None, 3\)"):
        bnkern.batch_norm_train(Foreign(shape=(None, 3), dtype="float32", device="somewhere"))


def test_the_reasons_are_told_when_no_backend_takes_an_array(monkeypatch):
    xp = of_framework("array_api_strict")
    monkeypatch.setattr(_dispatch, "BACKENDS", ("cpu", "torch"))
    monkeypatch.setattr(_dispatch, "_chosen", {})
    with pytest.raises(TypeError, match=r"cpu: not a NumPy array but Array; torch: not a PyTorch tensor but Array"):
        bnkern.batch_stats(xp.ones((4, 3)))


def test_overlap_is_seen_in_memory_of_any_library():
    """By DLPack, where an array lies in host memory."""
    xp = of_framework("array_api_strict")
    memory = xp.asarray(cases.make((5, 3, 4), 1).x)
    with pytest.raises(ValueError, match="out: expected x itself or memory apart from it"):
        bnkern.batch_norm_train(memory[1:, ...], out=memory[:-1, ...])
    want, _ = bnkern.batch_norm_train(memory[1:, ...])
    y, _ = bnkern.batch_norm_train(memory[1:, ...], out=memory[1:, ...])
    assert xp.all(y == want)


def test_memory_of_a_gpu_is_compared_by_address():
    """By the CUDA array interface: nothing is read, so any address will do."""
    from bnkern._memory import _folded, _shadow, shared

    def interface(address, shape, strides):
        return {"data": (address, False), "shape": shape, "strides": strides, "typestr": "<f4", "version": 3}

    def on_gpu(address, shape, strides=None):
        return Foreign(shape=shape, __cuda_array_interface__=interface(address, shape, strides))

    one = on_gpu(0x7F0000000000, (4, 8))
    assert shared(one, on_gpu(0x7F0000000000 + 124, (4,)))
    assert not shared(one, on_gpu(0x7F0000000000 + 128, (4,)))
    assert not shared(on_gpu(0x7F0000000000, (4,), (8,)), on_gpu(0x7F0000000000 + 4, (4,), (8,)))  # interleaved
    assert _folded(_shadow(on_gpu(0x7F0000000000, (4, 8), (0, 4))))


def test_read_only_exports_are_inputs_like_others():
    """JAX's memory, shown to NumPy by DLPack, cannot be written; it can be read, and a result put elsewhere."""
    jax = of_framework("jax")
    case = cases.make((4, 5, 6), 1)
    x = np.from_dlpack(jax.numpy.asarray(case.x))
    assert not x.flags.writeable
    y, _ = bnkern.batch_norm_train(x)
    assert np.array_equal(y, bnkern.batch_norm_train(case.x)[0])
    with pytest.raises(ValueError, match=r"out: .*read-only"):
        bnkern.batch_norm_train(x, out=x)

"""Objects that show their memory by DLPack or the array interface, and nothing else: taken as NumPy's view of it."""

import gc
import weakref
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern
from bnkern import distributed
from bnkern._dtypes import DTYPES


class Exporter:
    """Nothing but DLPack 1.0: no shape, no dtype, no namespace."""

    def __init__(self, a):
        self._a = a

    def __dlpack__(self, **options):
        return self._a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._a.__dlpack_device__()


class Old(Exporter):
    """As exporters were before 1.0: nothing tells whether the memory may be written."""

    def __dlpack__(self, *, stream=None):
        return self._a.__dlpack__()


class Interface:
    """Nothing but the array interface."""

    def __init__(self, a):
        self._a = a
        self.__array_interface__ = a.__array_interface__


class Elsewhere(Exporter):
    def __dlpack_device__(self):
        return self.device


KINDS = [Exporter, Old, Interface]


def tvm(a):
    """Of a library whose tensors have nothing else."""
    return of_framework("tvm_ffi").from_dlpack(a)


def every_function(a):
    """A function's results by name, from named arrays."""
    x, dy, w, b, mean, var = (a[name] for name in ("x", "dy", "weight", "bias", "mean", "var"))
    found = {}
    found["y"], stats = bnkern.batch_norm_train(x, weight=w, bias=b, residual=a["residual"], activation="relu")
    found["inference"] = bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, weight=w, bias=b)
    found["stats"] = bnkern.batch_stats(x).mean
    grads = bnkern.batch_norm_backward(
        dy, x, stats, weight=w, y=a["wrap"](found["y"]), activation="relu", needs=("x", "weight", "bias", "residual")
    )
    found |= grads._asdict()
    given = bnkern.BatchStats(a["wrap"](stats.mean), a["wrap"](stats.var), stats.count)
    sums = bnkern.backward_reduce(dy, x, given, weight=w)
    found["sums"] = sums.sum_dy_xhat
    found["applied"] = bnkern.backward_apply(dy, x, given, [a["wrap"](s) for s in sums], weight=w)
    found["merged"] = bnkern.merge_stats([given, given]).var
    found["running"] = bnkern.update_running(given, running_mean=mean, running_var=var)[1]
    found["folded"] = bnkern.fold_batch_norm(a["conv"], running_mean=mean, running_var=var, weight=w)[0]
    found["vjp y"], _, vjp = bnkern.batch_norm_vjp(x, weight=w)
    found["vjp dx"] = vjp(dy).dx
    found["frozen vjp"] = bnkern.batch_norm_vjp(x, training=False, running_mean=mean, running_var=var)[2](dy).dx
    return found | in_parts(a, given) | of_layer(a)


def in_parts(a, given):
    """What takes the batch in parts: of one rank, and twice."""
    x, w, alone = a["x"], a["weight"], {"comm": lambda message: [message]}
    found = {}
    found["ranks y"], stats = distributed.batch_norm_train(x, weight=w, bias=a["bias"], part_size=3, **alone)
    found["ranks var"] = stats.var
    found["ranks dx"], found["ranks dweight"] = distributed.batch_norm_backward(
        a["dy"], x, given, weight=w, part_size=3, **alone
    )[:2]
    total = bnkern.StatsAccumulator()
    total.add(x)
    total.add(x)
    total.merge(given)
    assert total.count == 3 * given.count
    found["accumulated"] = total.result().var
    return found


def of_layer(a):
    layer = bnkern.BatchNorm(5)
    vectors = {"weight": a["weight"], "bias": a["bias"], "running_mean": a["mean"], "running_var": a["var"]}
    layer.load_state(vectors | {"num_batches": 3})
    y = layer(a["x"], residual=a["residual"])
    return {"layer y": y, "layer dx": layer.backward(a["dy"]), "layer var": layer.running_var}


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])  # NumPy exports none: test_bfloat16
@pytest.mark.parametrize("kind", [*KINDS, tvm])
def test_every_function(kind, dtype):
    case = cases.make((4, 5, 6, 7), 1, dtype)
    named = {"x": case.x, "dy": case.dy, "weight": case.weight, "bias": case.bias, "residual": case.residual}
    named |= {"mean": case.bias, "var": case.weight**2, "conv": np.ones((5, 2, 3), case.x.dtype)}
    got = every_function({name: kind(a) for name, a in named.items()} | {"wrap": kind})
    want = every_function(named | {"wrap": lambda a: a})
    for name, expected in want.items():
        assert type(got[name]) is np.ndarray, name
        assert same_bits(got[name], expected), name


@pytest.mark.parametrize("kind", [Exporter, Interface, tvm])
def test_written_where_the_exporter_has_it(kind):
    case = cases.make((4, 5, 6), 1)
    y, mean, var, dx = np.zeros_like(case.x), np.zeros(5), np.ones(5), np.zeros_like(case.x)
    running = {"running_mean": kind(mean), "running_var": kind(var)}
    given, stats = bnkern.batch_norm_train(kind(case.x), weight=case.weight, out=kind(y), **running)
    assert np.shares_memory(given, y)
    want_mean, want_var = np.zeros(5), np.ones(5)
    want, _ = bnkern.batch_norm_train(case.x, weight=case.weight, running_mean=want_mean, running_var=want_var)
    assert same_bits(y, want)
    assert same_bits(mean, want_mean)
    assert same_bits(var, want_var)
    grads = bnkern.batch_norm_backward(kind(case.dy), case.x, stats, out=kind(dx))
    assert np.shares_memory(grads.dx, dx)
    _, _, vjp = bnkern.batch_norm_vjp(kind(case.x), out=kind(y))
    assert np.shares_memory(vjp(case.dy, out=kind(dx)).dx, dx)


@pytest.mark.parametrize("kind", [Exporter, Interface])
def test_overlaps_are_seen(kind):
    buffer = np.zeros(130, np.float32)
    x, out = buffer[:120].reshape(4, 5, 6), buffer[10:].reshape(4, 5, 6)
    with pytest.raises(ValueError, match="out: expected x itself or memory apart from it"):
        bnkern.batch_norm_train(kind(x), out=kind(out))
    with pytest.raises(ValueError, match="out: expected memory apart from x"):
        bnkern.batch_norm_vjp(kind(x), out=kind(x))


@pytest.mark.parametrize("make", [lambda a: Old(a), lambda a: Interface(frozen(a)), lambda a: Exporter(frozen(a))])
def test_read_only(make):
    """Said by the exporter, or not to be known: nothing is written."""
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    before = x.copy()
    with pytest.raises(ValueError, match="out: expected an array that can be written"):
        bnkern.batch_norm_train(x, out=make(x))
    with pytest.raises(ValueError, match="running_mean: expected an array that can be written"):
        bnkern.batch_norm_train(x, running_mean=make(np.zeros(5)), running_var=make(np.ones(5)))
    assert same_bits(x, before)


def frozen(a):
    view = a.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [np.s_[::2, :, ::-1], np.s_[:, ::2], np.s_[:1, :, None, :]], ids=str)
def test_strided(kind, index):
    a = np.random.default_rng(0).standard_normal((6, 8, 5))[index]
    assert same_bits(bnkern.batch_stats(kind(a)).var, bnkern.batch_stats(a).var)


class Owner(np.ndarray):
    """NumPy memory whose end can be seen."""


def test_the_view_holds_the_memory():
    """Statistics of a vjp outlive the object that was given; it goes with the last view, and not before."""
    a = np.random.default_rng(0).standard_normal((4, 5, 6)).view(Owner)
    gone = weakref.ref(a)
    exporter = Exporter(a)
    want = bnkern.batch_norm_vjp(np.array(a))[2](np.array(a)).dx
    _, _, vjp = bnkern.batch_norm_vjp(exporter)
    del a, exporter
    gc.collect()
    assert gone() is not None
    assert same_bits(vjp(np.array(gone())).dx, want)
    del vjp
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("old", [False, True])
def test_bfloat16(old):
    """From PyTorch, which exports it; NumPy's own from_dlpack does not know it."""
    torch = of_framework("torch")
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(ml_dtypes.bfloat16)
    t = torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)

    class Tensor(Exporter):
        def __dlpack__(self, **options):
            if old and options:
                raise TypeError("no such argument")
            return self._a.__dlpack__(**options)

    y, stats = bnkern.batch_norm_train(Tensor(t))
    want, want_stats = bnkern.batch_norm_train(x)
    assert y.dtype == ml_dtypes.bfloat16
    assert same_bits(y, want)
    assert same_bits(stats.var, want_stats.var)
    transposed = bnkern.batch_norm_train(Tensor(t.transpose(0, 2)))[0]
    assert same_bits(np.ascontiguousarray(transposed), bnkern.batch_norm_train(x.transpose(2, 1, 0).copy())[0])
    out = torch.zeros_like(t)
    if old:
        with pytest.raises(ValueError, match="read-only"):
            bnkern.batch_norm_train(x, out=Tensor(out))
    else:
        bnkern.batch_norm_train(x, out=Tensor(out))
        assert same_bits(out.view(torch.int16).numpy(), want.view(np.int16))


def test_the_capsule_of_a_bfloat16_is_freed():
    torch = of_framework("torch")
    t = torch.ones(4, 5, 6, dtype=torch.bfloat16)
    storage = weakref.ref(t.untyped_storage())
    view = bnkern.batch_norm_vjp(Exporter(t))[2]
    del t
    gc.collect()
    assert view(np.ones((4, 5, 6), ml_dtypes.bfloat16)).dx.shape == (4, 5, 6)
    del view
    gc.collect()
    assert storage() is None or not storage().nbytes()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("device", "words"), [
    ((2, 0), "install CuPy"), ((7, 0), "device type 7; copy it to the CPU"), ((8, 0), "device type 8"),
    ((10, 1), "device type 10"),
])  # fmt: skip
def test_other_devices(device, words, monkeypatch):
    monkeypatch.setattr("bnkern.arrays.dlpack.find_spec", lambda name: None)
    x = Elsewhere(np.ones((4, 5)))
    x.device = device
    with pytest.raises(TypeError, match=f"x: expected memory of the CPU or of a CUDA device, got .*{words}"):
        bnkern.batch_stats(x)
    with pytest.raises(TypeError, match=f"weight: .*{words}"):
        bnkern.batch_norm_train(np.ones((4, 5)), weight=x)


@pytest.mark.parametrize("device", [(2, 0), (13, 0)])
def test_cuda_memory_goes_to_cupy(device, monkeypatch):
    """With a stand-in for CuPy whose arrays are NumPy's."""
    stand_in = SimpleNamespace(from_dlpack=lambda given: given._a)
    monkeypatch.setattr("bnkern.arrays.dlpack.find_spec", lambda name: name == "cupy")
    monkeypatch.setattr("bnkern.arrays.dlpack.import_module", {"cupy": stand_in}.get)
    x = Elsewhere(np.random.default_rng(0).standard_normal((4, 5)))
    x.device = device
    assert same_bits(bnkern.batch_stats(x).var, bnkern.batch_stats(x._a).var)


class Broken(Exporter):
    def __dlpack__(self, **options):
        raise BufferError("not now")


class NoDevice:
    def __dlpack__(self, **options):
        raise AssertionError("asked for memory without asking where it is")


class NoCapsule(Exporter):
    def __dlpack__(self, **options):
        return "a capsule"


@pytest.mark.parametrize(("x", "words"), [
    (Broken(np.ones((4, 5))), r"cannot be exported \(not now\)"), (NoDevice(), "memory cannot be seen"),
    (NoCapsule(np.ones((4, 5))), "cannot be exported"),
])  # fmt: skip
def test_objects_that_fail(x, words):
    with pytest.raises(TypeError, match=f"x: expected an array.*{words}"):
        bnkern.batch_stats(x)


def test_wrong_dtypes_and_shapes():
    with pytest.raises(TypeError, match="x: expected dtype float32 or"):
        bnkern.batch_stats(Exporter(np.ones((4, 5), np.int32)))
    with pytest.raises(ValueError, match=r"weight: expected shape \(5,\)"):
        bnkern.batch_norm_train(Exporter(np.ones((4, 5))), weight=Exporter(np.ones(4)))
    x = np.ones((4, 5))
    stats = bnkern.batch_stats(x)
    with pytest.raises(ValueError, match=r"dy: expected shape \(4, 5\)"):
        bnkern.backward_reduce(Exporter(np.ones((4, 6))), Exporter(x), stats)


def test_beside_another_library():
    """NumPy's view is an array of NumPy's: beside tensors of PyTorch it is refused as such."""
    torch = of_framework("torch")
    with pytest.raises(TypeError, match="weight: expected an array of torch, as x is, got one of numpy"):
        bnkern.batch_norm_train(torch.ones(4, 5), weight=Exporter(np.ones(5)))


def test_cupy():
    """On a GPU the view is CuPy's."""
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    if not cupy.cuda.runtime.getDeviceCount():
        pytest.skip("no CUDA device")
    x = cupy.random.standard_normal((4, 5, 6))
    assert type(bnkern.batch_norm_train(Exporter(x))[0]) is cupy.ndarray


def test_explain():
    told = bnkern.explain(Exporter(np.ones((4, 5, 6), np.float32)))
    assert told.engine == "cpu"

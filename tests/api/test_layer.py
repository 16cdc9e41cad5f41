"""bnkern.BatchNorm: the functions' bits, in a layer."""

import copy
import pickle

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import of_framework

import bnkern

CASE = cases.make((6, 5, 7), 1)


def started(**options):
    """A layer with weights of its own."""
    layer = bnkern.BatchNorm(5, **options)
    if layer.weight is not None:
        layer.weight[...] = CASE.weight
        layer.bias[...] = CASE.bias
    return layer


@pytest.mark.parametrize("activation", [None, "relu", ("leaky_relu", 0.1)], ids=str)
@pytest.mark.parametrize("residual", [None, CASE.residual], ids=["plain", "residual"])
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward(training, residual, activation):
    layer = started(activation=activation, eps=1e-3, momentum=0.25, correction=0)
    layer.running_mean[...], layer.running_var[...] = CASE.bias, CASE.weight**2
    how = {"weight": CASE.weight, "bias": CASE.bias, "activation": activation, "eps": 1e-3, "residual": residual}
    running = {"running_mean": CASE.bias.copy(), "running_var": (CASE.weight**2).astype(np.float32)}
    if training:
        how |= {"momentum": 0.25, "correction": 0}
    want, _, vjp = bnkern.batch_norm_vjp(CASE.x, training=training, **how, **running)
    grads = vjp(CASE.dy)
    assert same_bits(layer(CASE.x, training=training, residual=residual), want)
    assert same_bits(layer.backward(CASE.dy), grads.dx)
    assert same_bits(layer.dweight, grads.dweight)
    assert same_bits(layer.dbias, grads.dbias)
    assert (layer.dresidual is None) == (residual is None)
    assert residual is None or same_bits(layer.dresidual, grads.dresidual)
    assert same_bits(layer.running_mean, running["running_mean"])
    assert same_bits(layer.running_var, running["running_var"])
    assert layer.num_batches == training


def test_channels_last_and_no_weights():
    layer = bnkern.BatchNorm(5, axis=-1, affine=False, track_running_stats=False, dtype=np.float64)
    assert [layer.weight, layer.bias, layer.running_mean, layer.running_var] == [None] * 4
    x = np.ascontiguousarray(np.moveaxis(CASE.x, 1, -1))
    want, stats = bnkern.batch_norm_train(x, axis=-1)
    assert same_bits(layer(x), want)
    assert same_bits(layer(x, training=False), want)  # the batch's own: there are no others
    dy = np.ascontiguousarray(np.moveaxis(CASE.dy, 1, -1))
    assert same_bits(layer.backward(dy), bnkern.batch_norm_backward(dy, x, stats, axis=-1).dx)
    assert layer.dweight is None
    assert layer.num_batches == 0
    with pytest.raises(ValueError, match=r"x: expected 5 channels, got 7 \(shape \(6, 5, 7\) with axis=-1\)"):
        layer(CASE.x)


def test_the_average_over_all_batches():
    """momentum=None: Algorithm 2 of the paper."""
    layer = bnkern.BatchNorm(5, momentum=None, dtype="float64")
    batches = np.random.default_rng(0).standard_normal((4, 6, 5, 7))
    for batch in batches:
        layer(batch)
    assert layer.num_batches == 4
    np.testing.assert_allclose(layer.running_mean, batches.mean(axis=(0, 1, 3)), atol=1e-15)
    want = np.mean([b.var(axis=(0, 2), ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(layer.running_var, want, rtol=1e-14)


def test_a_batch_without_elements_counts_for_nothing():
    layer = bnkern.BatchNorm(5)
    assert layer(np.empty((0, 5), np.float32)).shape == (0, 5)
    assert layer.num_batches == 0
    assert (layer.running_var == 1).all()


def test_backward_goes_with_one_forward_call():
    layer = started()
    with pytest.raises(RuntimeError, match="expected a forward call before"):
        layer.backward(CASE.dy)
    layer(CASE.x)
    with pytest.raises(ValueError, match="dy: expected shape"):
        layer.backward(CASE.dy[:1])
    layer.backward(CASE.dy)
    with pytest.raises(RuntimeError, match="expected a forward call before"):
        layer.backward(CASE.dy)


def test_a_refused_call_changes_nothing():
    layer = started()
    layer(CASE.x)
    before = layer.state()
    for x in (CASE.x.astype(np.int32), CASE.x[:, :4], CASE.x[:1, :, :1], CASE.x[0, :, 0]):
        with pytest.raises((TypeError, ValueError)):
            layer(x)
    for name, a in layer.state().items():
        assert same_bits(a, before[name])
    assert same_bits(layer.backward(CASE.dy), started_gradient())


def started_gradient():
    return bnkern.batch_norm_vjp(CASE.x, weight=CASE.weight, bias=CASE.bias)[2](CASE.dy).dx


# ---------------------------------------------------------------- state


def test_state_there_and_back(tmp_path):
    layer = started()
    layer(CASE.x)
    state = layer.state()
    assert sorted(state) == ["bias", "num_batches", "running_mean", "running_var", "weight"]
    layer(CASE.x + 1)
    assert state["num_batches"] == 1  # copies: the layer goes on without them
    np.savez(tmp_path / "layer.npz", **state)
    fresh = bnkern.BatchNorm(5)
    weight = fresh.weight
    fresh.load_state(np.load(tmp_path / "layer.npz"))
    assert fresh.weight is weight  # in place: an optimiser that holds the array sees it
    for name, a in fresh.state().items():
        assert same_bits(a, state[name]), name


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"weight": np.ones(4)}, ValueError, r"state: weight: expected shape \(5,\), got \(4,\)"),
    ({"running_var": np.ones(5, int)}, TypeError, "state: running_var: expected floating-point numbers"),
    ({"bias": None}, TypeError, "state: bias: expected floating-point numbers"),
    ({"num_batches": -1}, ValueError, "state: num_batches: expected an integer >= 0"),
    ({"num_batches": "3"}, TypeError, "state: num_batches: expected an integer"),
    ({"more": np.ones(5)}, ValueError, r"state: expected the names \['bias', "),
])  # fmt: skip
def test_a_wrong_state_changes_nothing(change, error, words):
    layer = started()
    before = layer.state()
    with pytest.raises(error, match=words):
        layer.load_state({name: a + 1 for name, a in before.items()} | change)
    missing = dict(before)
    del missing["bias"]
    with pytest.raises(ValueError, match="state: expected the names"):
        layer.load_state(missing)
    with pytest.raises(TypeError, match="state: expected a dict"):
        layer.load_state([*before])
    for name, a in layer.state().items():
        assert same_bits(a, before[name])


@pytest.mark.parametrize("frozen", ["weight", "bias", "running_mean", "running_var"])
def test_a_state_is_taken_over_whole_or_not_at_all(frozen):
    layer = started()
    before = layer.state()
    getattr(layer, frozen).flags.writeable = False
    with pytest.raises(ValueError, match=f"{frozen}: expected an array that can be written"):
        layer.load_state({name: a + 1 for name, a in before.items()})
    for name, a in layer.state().items():
        assert same_bits(a, before[name])


def test_a_state_of_the_layers_own_arrays():
    """Nothing is written before all has been read."""
    layer = started()
    state = layer.state()
    swapped = {"weight": layer.bias, "bias": layer.weight, "num_batches": 2}
    layer.load_state(swapped | {"running_mean": layer.running_var, "running_var": layer.running_mean})
    assert same_bits(layer.weight, state["bias"])
    assert same_bits(layer.bias, state["weight"])


def test_copy_and_pickle():
    layer = started(activation="relu")
    layer(CASE.x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert twin.weight is not layer.weight
        assert same_bits(twin(CASE.x, training=False), layer(CASE.x, training=False))
    twin = pickle.loads(pickle.dumps(layer))
    with pytest.raises(RuntimeError, match="expected a forward call"):  # what backward needs stays at home
        twin.backward(CASE.dy)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"channels": 0}, ValueError, "channels: expected an integer >= 1"),
    ({"channels": 2.0}, TypeError, "channels: expected an integer"),
    ({"axis": "1"}, TypeError, "axis: expected an integer"),
    ({"eps": 0}, ValueError, "eps: expected a number > 0"),
    ({"momentum": np.nan}, ValueError, "momentum: expected a finite number"),
    ({"correction": -1}, ValueError, "correction: expected a number >= 0"),
    ({"activation": "gelu"}, ValueError, "activation: expected None, 'relu'"),
    ({"affine": 1}, TypeError, "affine: expected True or False"),
    ({"track_running_stats": None}, TypeError, "track_running_stats: expected True or False"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
    ({"dtype": "nonsense"}, TypeError, "dtype: expected float32 or float64"),
    ({"xp": "numpy"}, TypeError, "xp: expected a module of arrays"),
])  # fmt: skip
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        bnkern.BatchNorm(**{"channels": 5} | options)


def test_options_are_named():
    with pytest.raises(TypeError):
        bnkern.BatchNorm(5, -1)
    layer = bnkern.BatchNorm(5, axis=-1, momentum=None)
    assert repr(layer).startswith("bnkern.BatchNorm(5, axis=-1, eps=1e-05, momentum=None, affine=True, ")


@pytest.mark.parametrize("options", [
    {"eps": 1.00000001e-3, "dtype": np.float64}, {"correction": 1 / 3, "activation": ("leaky_relu", 0.1)},
])  # fmt: skip
def test_repr_makes_the_layer_again(options):
    layer = bnkern.BatchNorm(5, **options)
    twin = eval(repr(layer), {"bnkern": bnkern})
    for name in ("eps", "correction", "activation"):
        assert getattr(twin, name) == getattr(layer, name)
    assert twin.weight.dtype == layer.weight.dtype


def test_another_namespace():
    """Any array API namespace whose arrays can be written."""
    strict = of_framework("array_api_strict")
    layer = bnkern.BatchNorm(5, xp=strict)
    x = strict.asarray(CASE.x)
    y = layer(x)
    assert type(y) is type(x) is type(layer.weight) is type(layer.state()["weight"])
    np.testing.assert_allclose(np.from_dlpack(y), bnkern.batch_norm_train(CASE.x)[0], rtol=1e-5, atol=1e-6)
    layer.load_state(bnkern.BatchNorm(5).state())
    assert layer.num_batches == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors(dtype):
    """A namespace that is no array API one by itself: the module torch."""
    torch = of_framework("torch")
    layer = bnkern.BatchNorm(5, xp=torch, dtype=dtype)
    held = layer.weight
    state = started(dtype="float64").state()
    for given in (state, {name: torch.asarray(a) for name, a in state.items()}):
        layer.load_state(given)
        assert layer.weight is held
        assert layer.weight.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(layer.weight.numpy(), CASE.weight)
    y = layer(torch.from_numpy(CASE.x))
    assert same_bits(y.numpy(), bnkern.batch_norm_train(CASE.x, weight=CASE.weight, bias=CASE.bias)[0])
    assert type(layer.backward(torch.from_numpy(CASE.dy))) is torch.Tensor


def test_cupy():
    cupy = of_framework("cupy")
    if not cupy.cuda.runtime.getDeviceCount():
        pytest.skip("no CUDA device")
    layer = bnkern.BatchNorm(5, xp=cupy)
    layer(cupy.asarray(CASE.x))
    assert type(layer.backward(cupy.asarray(CASE.dy))) is type(layer.dweight) is cupy.ndarray

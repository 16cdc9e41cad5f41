"""The layers do what PyTorch's do: results, buffers, options, messages; and live through compile and export."""

import copy
import pickle
import threading

import numpy as np
import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import bnkern  # noqa: E402
import bnkern.torch as bt  # noqa: E402
from bnkern.torch.functional import activated  # noqa: E402

nn = torch.nn
SHAPES = {"1d": (8, 5, 4), "2d": (4, 5, 6, 3), "3d": (2, 5, 3, 2, 4)}
OPTIONS = [
    {}, {"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}, {"affine": False}, {"bias": False},
    {"eps": 0.1, "affine": False, "track_running_stats": False},
]  # fmt: skip


def pair(rank, **options):
    torch.manual_seed(1)
    theirs = getattr(nn, f"BatchNorm{rank}")(5, **options)
    for p in theirs.parameters():
        nn.init.normal_(p)
    return theirs, bt.convert(copy.deepcopy(theirs))


def close(a, b, dtype=torch.float32):
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rank", SHAPES)
def test_as_pytorchs_layer(rank, options):
    """Three batches, eval, gradients, buffers: at each step the same."""
    theirs, ours = pair(rank, **options)
    for mode in (True, True, False, True):
        x = (3 + torch.randn(SHAPES[rank])).requires_grad_()
        dy = torch.randn(SHAPES[rank])
        results = []
        for layer in (theirs, ours):
            layer.train(mode)
            layer.zero_grad()
            y = layer(x)
            results.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)))
        close(*results)
        close(*(dict(layer.named_buffers()) for layer in (theirs, ours)))
    assert list(theirs.state_dict()) == list(ours.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [False, True], ids=["float32 parameters", "16-bit parameters"])
def test_16_bits(dtype, own):
    theirs, ours = pair("2d")
    if own:
        theirs, ours = theirs.to(dtype), ours.to(dtype)
    x, dy = torch.randn(SHAPES["2d"]).to(dtype).requires_grad_(), torch.randn(SHAPES["2d"]).to(dtype)
    results = []
    for layer in (theirs, ours):
        y = layer(x)
        assert y.dtype is dtype
        results.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)))
    close(*results, dtype)
    close(*(dict(layer.named_buffers()) for layer in (theirs, ours)), dtype)


def test_the_bits_are_bnkerns_own():
    """Layer and function give what bnkern.batch_norm_train gives for NumPy, buffers included."""
    x = np.random.default_rng(0).standard_normal((4, 5, 60, 30), np.float32)
    layer, mean, var = bt.BatchNorm2d(5), np.zeros(5, "f4"), np.ones(5, "f4")
    y = layer(torch.from_numpy(x)).detach().numpy()
    want, _ = bnkern.batch_norm_train(
        x, weight=np.ones(5, "f4"), bias=np.zeros(5, "f4"), running_mean=mean, running_var=var
    )
    assert np.array_equal(y, want)
    assert np.array_equal(layer.running_mean, mean)
    assert np.array_equal(layer.running_var, var)


@pytest.mark.parametrize("rank", SHAPES)
def test_messages_for_wrong_ranks_are_pytorchs(rank):
    theirs, ours = pair(rank)
    for n in range(1, 7):
        x = torch.ones([2, 5, 2, 2, 2, 2][:n])
        if n in {"1d": (2, 3), "2d": (4,), "3d": (5,)}[rank]:
            ours(x)
            continue
        with pytest.raises(ValueError, match="expected") as wanted:
            theirs(x)
        with pytest.raises(ValueError, match="expected") as raised:
            ours(x)
        assert str(raised.value) == str(wanted.value)


def test_other_messages():
    layer = bt.BatchNorm1d(5)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        layer(torch.ones(1, 5))
    with pytest.raises(ValueError, match=r"weight: expected .*5.*|.*7.*"):
        layer(torch.ones(4, 7))
    with pytest.raises(TypeError, match="x: expected"):
        layer(torch.ones(4, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="running_mean, running_var: expected tensors with training=False"):
        bt.batch_norm(torch.ones(4, 5), None, None)
    with pytest.raises(ValueError, match="both or neither"):
        bt.batch_norm(torch.randn(4, 5), torch.zeros(5), None, training=True)
    with pytest.raises(ValueError, match="num_batches_tracked"):
        bt.batch_norm(torch.randn(4, 5), torch.zeros(5), torch.ones(5), training=True, momentum=None)
    with pytest.raises(ValueError, match="activation: expected"):
        bt.BatchNorm1d(5, activation="gelu")
    assert not layer.running_mean.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_buffers_that_do_not_fit_or_lie_oddly(dtype):
    """Another length raises before a write; strides and 16 bits take the longer way to the same numbers."""
    x = torch.randn(4, 5, 3)
    with pytest.raises(ValueError, match="running_mean"):
        bt.batch_norm(x, torch.zeros(7), torch.ones(7), training=True)
    spread = torch.zeros(10, dtype=dtype)[::2], torch.ones(10, dtype=dtype)[::2]
    plain = torch.zeros(5), torch.ones(5)
    bt.batch_norm(x, *spread, training=True)
    bt.batch_norm(x, *plain, training=True)
    close(spread, tuple(t.to(dtype) for t in plain), dtype)
    assert spread[0].any()


def test_an_empty_batch_changes_nothing():
    layer = bt.BatchNorm2d(5)
    x = torch.ones(0, 5, 3, 3, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert not layer.running_mean.any()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("activation", ["relu", "relu6", ("leaky_relu", 0.1)], ids=str)
@pytest.mark.parametrize("residual", ["none", "like x", "broadcast", "wider"])
def test_activation_and_residual(activation, residual):
    x = torch.randn(SHAPES["2d"], requires_grad=True)
    added = {
        "none": None, "like x": torch.randn_like(x), "broadcast": torch.randn(5, 1, 1),
        "wider": torch.randn_like(x).double(),
    }[residual]  # fmt: skip
    layer = bt.BatchNorm2d(5, activation=activation)
    plain = nn.BatchNorm2d(5)
    z = plain(x) if added is None else plain(x) + added
    functional = {"relu": nn.functional.relu, "relu6": nn.functional.relu6}
    want = functional[activation](z) if isinstance(activation, str) else nn.functional.leaky_relu(z, 0.1)
    got = layer(x, added)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    assert f"activation={activation!r}" in repr(layer)


@pytest.mark.parametrize("rank", SHAPES)
def test_lazy(rank):
    lazy = getattr(bt, f"LazyBatchNorm{rank}")(momentum=0.2)
    lazy(torch.randn(SHAPES[rank]))
    assert type(lazy) is getattr(bt, f"BatchNorm{rank}")
    assert lazy.num_features == 5
    converted = bt.convert(getattr(nn, f"LazyBatchNorm{rank}")())
    converted(torch.randn(SHAPES[rank]))
    assert type(converted) is getattr(bt, f"BatchNorm{rank}")


def test_copies():
    layer = bt.BatchNorm2d(5, activation="relu")
    x = torch.randn(SHAPES["2d"])
    layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.activation == "relu"
        assert torch.equal(other(x), copy.deepcopy(layer)(x))


# ---------------------------------------------------------------- what PyTorch does with layers


def network(momentum=0.1):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), bt.BatchNorm2d(5, momentum=momentum, activation="relu"), nn.Conv2d(5, 4, 1)
    return nn.Sequential(*layers, nn.BatchNorm2d(4))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_compile_in_one_graph(momentum):
    """Forward, backward, running statistics, both modes: fullgraph, and the same as without."""
    plain, compiled = network(momentum), network(momentum)
    graph = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for mode in (True, True, False):
        x = torch.randn(2, 3, 6, 6, requires_grad=True)
        grads = []
        for model, call in ((plain, plain), (compiled, graph)):
            model.train(mode)
            grads.append(torch.autograd.grad(call(x).square().sum(), (x, *model.parameters())))
        close(*grads)
        close(plain.state_dict(), compiled.state_dict())


@pytest.mark.filterwarnings("ignore")  # of what inductor finds missing on a machine
def test_inductor():
    plain, compiled = network(), network()
    x = torch.randn(2, 3, 6, 6)
    got = torch.compile(compiled, fullgraph=True, options={"cpp.simdlen": 1})(x)  # 1: no search for vector units
    got.sum().backward()
    close(got, plain(x))
    close(plain.state_dict(), compiled.state_dict())


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own making
def test_export():
    model = network()
    x = torch.randn(2, 3, 6, 6)
    for mode in (True, False):
        model.train(mode)
        program = torch.export.export(model, (x,))
        want, twin = copy.deepcopy(model), program.module()
        close(twin(x), want(x))
        close(dict(twin.named_buffers()), dict(want.named_buffers()))
        assert any("bnkern" in str(node.target) for node in program.run_decompositions().graph.nodes)


def test_autocast():
    model, x = network(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    assert model[1].weight.grad.dtype is torch.float32
    want = nn.Sequential(model[0], nn.BatchNorm2d(5), nn.ReLU(), *model[2:])
    with torch.autocast("cpu", torch.bfloat16):
        close(y, want(x), torch.bfloat16)


@pytest.mark.parametrize("contexts", [False, True])
def test_checkpoint(contexts):
    """The recomputation repeats the bits; with `checkpoint_contexts` it leaves the running statistics alone."""
    x = torch.randn(4, 5, 6, requires_grad=True)
    plain, kept = bt.BatchNorm1d(5), bt.BatchNorm1d(5)
    want = torch.autograd.grad(plain(x).exp().sum(), (x, *plain.parameters()))
    options = {"context_fn": bt.checkpoint_contexts} if contexts else {}
    y = checkpoint(lambda x: kept(x).exp(), x, use_reentrant=False, **options)  # exp is recomputed behind the layer
    got = torch.autograd.grad(y.sum(), (x, *kept.parameters()))
    assert all(map(torch.equal, want, got))
    assert kept.num_batches_tracked == (1 if contexts else 2)
    assert torch.equal(kept.running_mean, plain.running_mean) is contexts


def test_no_running_update_is_of_its_thread():
    layer, x = bt.BatchNorm1d(5), torch.randn(4, 5)
    with bt.no_running_update():
        with bt.no_running_update():
            layer(x)
        layer(x)
        other = threading.Thread(target=layer, args=(x,))
        other.start()
        other.join()
    assert layer.num_batches_tracked == 1
    layer(x)
    assert layer.num_batches_tracked == 2


def test_threads_as_dataparallel_has_them():
    """Replicas in threads of their own, forward and backward at once: the bits of one after the other."""
    model = network()
    xs = [torch.randn(2, 3, 20, 20) for _ in range(4)]

    def work(x):
        replica = copy.deepcopy(model)
        replica(x).square().sum().backward()
        return [p.grad for p in replica.parameters()] + list(replica.buffers())

    want, got = [work(x) for x in xs], [None] * 4

    def run(i):
        got[i] = work(xs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(want, got, strict=True):
        close(a, b)  # the convolutions are PyTorch's


def test_subclasses_with_their_own_rules_are_asked():
    """A type with __torch_function__ sees the call, as it does with PyTorch's function."""

    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return "asked", func

    x = torch.ones(4, 5).as_subclass(Loud)
    assert bt.batch_norm(x, None, None, training=True) == ("asked", bt.batch_norm)


@pytest.mark.parametrize("residual", [None, torch.ones(5, 1, 1), torch.ones(4, 5, 6, 3)], ids=["", "row", "like x"])
@pytest.mark.parametrize("wrong", ["gelu", ("foo", 0.1), ("relu",), "leaky_relu", ("leaky_relu", -1.0)], ids=str)
def test_no_other_activation_passes_for_relu(wrong, residual):
    """Also where PyTorch adds the residual and applies the activation; the batch is not counted."""
    x, mean, var = torch.randn(4, 5, 6, 3), torch.zeros(5), torch.ones(5)
    for training in (True, False):
        with pytest.raises(ValueError, match="activation: expected"):
            bt.batch_norm(x, mean, var, training=training, activation=wrong, residual=residual)
    for layer in (bt.BatchNorm2d(5), bt.SyncBatchNorm(5)):
        with pytest.raises(ValueError, match="activation: expected"):
            layer(x, residual, activation=wrong)
        assert layer.num_batches_tracked == 0
    with pytest.raises(ValueError, match="activation: expected"):
        activated(x, wrong)
    assert torch.equal(mean, torch.zeros(5))

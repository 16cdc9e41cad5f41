"""The operators as PyTorch checks them: schema, fake results, gradients of both orders, tracing, vmap, torch.func."""

import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

import bnkern.torch as bt  # noqa: E402
from bnkern.torch import ops, values  # noqa: E402

RANKS = {2: (6, 3), 3: (3, 3, 4), 4: (3, 3, 2, 3), 5: (2, 3, 2, 2, 2)}
ACTIVATIONS = [None, "relu", "relu6", ("leaky_relu", 0.2)]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BF16 = torch.bfloat16


def operands(shape=(3, 3, 2, 3), dtype=torch.float64, grad=True):
    torch.manual_seed(0)
    x, dy, residual = (2 * torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(3))
    weight, bias = torch.rand(3, dtype=torch.float64) + 0.5, torch.randn(3, dtype=torch.float64)
    return [t.requires_grad_(grad) for t in (x, dy, residual, weight, bias)]


def running():
    return torch.linspace(-1, 1, 3, dtype=torch.float64), torch.linspace(0.5, 2, 3, dtype=torch.float64)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "with gaps"])
def test_opcheck(memory):
    x, dy, residual, w, b = operands((3, 3, 2, 4))
    if memory == "with gaps":
        x = x.detach()[..., ::2].requires_grad_()
        dy, residual = (t.detach()[..., ::2].requires_grad_() for t in (dy, residual))
    else:
        x = x.detach().to(memory_format=FORMATS[memory]).requires_grad_()
    mean, var = running()
    torch.library.opcheck(ops.batch_norm_train, (x, w, b, residual, 1e-5, "relu", 0.0))
    torch.library.opcheck(ops.batch_norm_train, (x, None, None, None, 1e-5, "", 0.0))
    torch.library.opcheck(ops.batch_norm_inference, (x, mean, var, w, b, None, 1e-5, "leaky_relu", 0.1))
    how = (1e-5, "relu", 0.0)
    for needs in ((True, True, True, False), (True, False, False, True), (False, True, True, False)):
        arguments = (dy, x, mean, var, w, b, residual.detach(), *how, False, *needs)
        torch.library.opcheck(ops.batch_norm_backward, arguments)
    torch.library.opcheck(ops.update_running, (*running(), mean, var, 10, None, torch.tensor(3)))


@pytest.mark.parametrize("dtype", [torch.float32, BF16, torch.float16])
def test_opcheck_of_other_dtypes(dtype):
    x, _, residual, w, b = (t.detach() for t in operands(dtype=dtype))
    arguments = (x, w.float(), b.float(), residual, 1e-5, "relu", 0.0)
    torch.library.opcheck(ops.batch_norm_train, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen"])
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_gradients_of_both_orders(activation, training, with_residual):
    x, _, residual, w, b = operands()
    statistics = (None, None) if training else running()

    def f(x, w, b, *residual):
        return bt.batch_norm(x, *statistics, w, b, training, activation=activation, residual=next(iter(residual), None))

    inputs = (x, w, b, residual) if with_residual else (x, w, b)
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_every_rank(rank, affine):
    x, _, _, w, b = operands(RANKS[rank])
    inputs = (x, w, b) if affine else (x,)
    assert torch.autograd.gradcheck(lambda x, *wb: bt.batch_norm(x, None, None, *wb, training=True), inputs)
    assert torch.autograd.gradgradcheck(lambda x, *wb: bt.batch_norm(x, None, None, *wb, training=True), inputs)


def test_gradients_in_channels_last():
    x, _, _, w, b = operands()
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: bt.batch_norm(a[0], None, None, *a[1:], training=True), (x, w, b))
    y = bt.batch_norm(x, None, None, w, b, training=True)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.stride() == dx.stride() == x.stride()


def test_third_derivative():
    """The second order is plain PyTorch with statistics of its own: it can be differentiated again."""
    x, dy, _, w, b = operands((5, 3))

    def second(function):
        y = function(x, None, None, w, b, training=True)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        (ddx,) = torch.autograd.grad(dx.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(ddx.pow(2).sum(), (x, w, dy))

    def formula(x, _, __, w, b, training):
        var, mean = torch.var_mean(x, 0, correction=0)
        return (x - mean) * (var + 1e-5).rsqrt() * w + b

    for got, want in zip(second(bt.batch_norm), second(formula), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


def test_only_what_is_needed_is_computed(monkeypatch):
    seen = []
    backward = values._backward
    monkeypatch.setattr(values, "_backward", lambda *a, **k: seen.append(k["needs"]) or backward(*a, **k))
    x, dy, residual, w, b = operands()
    w.requires_grad_(False)
    y = bt.batch_norm(x, None, None, w, b, True, activation="relu", residual=residual.detach())
    y.backward(dy.detach())
    assert seen == [("x", "bias")]
    assert w.grad is None
    y = bt.batch_norm(x.detach(), *running(), w, b.detach(), False, residual=residual)
    y.backward(dy.detach())
    assert len(seen) == 1  # the residual's gradient is dy
    assert torch.equal(residual.grad, dy)


@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen"])
def test_torch_func(training):
    """grad, grad of grad, jacrev, and vmap over them, each against PyTorch's own function."""
    from torch.func import grad, jacrev, vjp, vmap

    x, _, _, w, b = (t.detach() for t in operands((4, 3, 5)))
    xs = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    statistics = (None, None) if training else running()

    def loss(function):
        return lambda w, x: function(x, *statistics, w, b, training).pow(3).sum()

    transforms = [
        lambda f: grad(f)(w, x),
        lambda f: grad(f, 1)(w, x),
        lambda f: jacrev(f)(w, x),
        lambda f: grad(lambda x: grad(f, 1)(w, x).pow(2).sum())(x),
        lambda f: vmap(f, (None, 0))(w, xs),
        lambda f: vmap(grad(f, 1), (None, 0))(w, xs),
        lambda f: vmap(grad(f), (None, 3))(w, xs.movedim(0, 3)),
        lambda f: grad(lambda w: vmap(f, (None, 0))(w, xs).sum())(w),
        lambda f: grad(lambda x: grad(lambda x: vmap(f, (None, 0))(w, x).sum())(x).pow(2).sum())(xs),
        lambda f: vjp(lambda x: vmap(f, (None, 0))(w, x), xs)[1](xs[:, 0, 0, 0])[0],
        lambda f: jacrev(jacrev(f, 1), 1)(w, x),
    ]
    for transform in transforms:
        torch.testing.assert_close(transform(loss(bt.batch_norm)), transform(loss(torch.nn.functional.batch_norm)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own, where forward mode begins
def test_forward_mode_is_refused_and_never_drops_a_tangent():
    """Under torch.func, in a dual level of one's own, and in linearize, which has neither transform nor tangent."""
    from torch.autograd import forward_ad
    from torch.func import hessian, jacfwd, jvp, linearize

    x = operands()[0].detach()

    def f(x):
        return bt.batch_norm(x, None, None, training=True).pow(3).sum()

    modes = [lambda: jvp(f, (x,), (x,)), lambda: jacfwd(f)(x), lambda: hessian(f)(x), lambda: linearize(f, x)[1](x)]
    for mode in modes:
        with pytest.raises(NotImplementedError, match=r"bnkern\.torch: expected reverse mode"):
            mode()
    with forward_ad.dual_level():
        with pytest.raises(NotImplementedError, match=r"bnkern\.torch: expected reverse mode"):
            f(forward_ad.make_dual(x, x))
        leaf = x.clone().requires_grad_()
        (inside,) = torch.autograd.grad(f(leaf), leaf)
    (outside,) = torch.autograd.grad(f(leaf), leaf)
    assert torch.equal(inside, outside)


def test_an_ensemble_with_buffers_under_grad():
    """Running statistics of mapped elements, updated while grad is around vmap."""
    xs, w = torch.randn(3, 4, 5), torch.rand(5)

    def step(function):
        means, variances = torch.zeros(3, 5), torch.ones(3, 5)

        def loss(w):
            return torch.vmap(lambda x, m, v: function(x, m, v, w, None, True))(xs, means, variances).pow(3).sum()

        return torch.func.grad(loss)(w), means, variances

    torch.testing.assert_close(step(bt.batch_norm), step(torch.nn.functional.batch_norm), rtol=1e-4, atol=1e-4)


def test_vmap_gives_each_element_its_own_statistics():
    xs, residual = torch.randn(3, 4, 5, 6), torch.randn(4, 5, 6)
    ws, means, variances = torch.rand(3, 5), torch.zeros(3, 5), torch.ones(3, 5)

    def f(x, w, mean, var):
        return bt.batch_norm(x, mean, var, w, None, True, activation="relu", residual=residual)

    ys = torch.vmap(f)(xs, ws, means, variances)
    for x, w, y, mean, var in zip(xs, ws, ys, means, variances, strict=True):
        m, v = torch.zeros(5), torch.ones(5)
        assert torch.equal(f(x, w, m, v), y)
        assert torch.equal(m, mean)
        assert torch.equal(v, var)


def test_vmap_refuses_shared_buffers_and_says_what_to_do():
    layer = bt.BatchNorm1d(5)
    with pytest.raises(RuntimeError, match=r"running_mean.*one for each element.*no_running_update"):
        torch.vmap(layer)(torch.randn(3, 4, 5))
    assert not layer.running_mean.any()
    with bt.no_running_update():
        assert torch.vmap(layer)(torch.randn(3, 4, 5)).shape == (3, 4, 5)


def test_a_broadcast_gradient_and_no_gradient():
    """y.sum() gives a dy without memory of its own; statistics have no gradient at all."""
    x, _, _, w, b = operands()
    y, mean, var = ops.batch_norm_train(x, w, b, None, 1e-5, "relu", 0.0)
    assert y.requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    y.sum().backward()
    (want,) = torch.autograd.grad(torch.nn.functional.batch_norm(x, None, None, w, b, True).relu().sum(), x)
    torch.testing.assert_close(x.grad, want)

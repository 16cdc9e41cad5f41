"""PyTorch tensors that are refused, by name: whose gradient would get lost, and what is no plain tensor."""

import warnings

import pytest
from helpers import cases
from helpers.libraries import of_framework

import bnkern

torch = of_framework("torch")


@pytest.fixture
def case():
    return cases.make((4, 5, 6, 3), 1)


def tensors(case):
    return [torch.from_numpy(a.copy()) for a in (case.x, case.weight, case.bias, case.dy)]


def calls(case):
    """Every function with every array argument that it may take, by name."""
    x, w, b, dy = tensors(case)
    stats = bnkern.batch_stats(x)
    mean, var = stats.mean, stats.var
    forward = {"x": x, "weight": w, "bias": b, "residual": dy}
    running = {"running_mean": torch.zeros(5), "running_var": torch.ones(5)}
    backward = {"dy": dy, "x": x, "mean": mean, "var": var, "weight": w, "bias": b, "y": dy.clone()}
    sums = {"sum_dy": mean.clone(), "sum_dy_xhat": var.clone()}

    def gathered(function, **more):
        def call(mean, var, sum_dy=None, sum_dy_xhat=None, **arrays):
            if sum_dy is not None:
                arrays["sums"] = (sum_dy, sum_dy_xhat)
            return function(stats=(mean, var, stats.count), **arrays, **more)

        return call

    relu = {"activation": "relu"}
    return [
        (lambda x: bnkern.batch_stats(x), {"x": x}),
        (bnkern.batch_norm_train, forward | running | {"out": torch.empty_like(x)}),
        (bnkern.batch_norm_inference, forward | running | {"out": torch.empty_like(x)}),
        (gathered(bnkern.batch_norm_backward, **relu), backward | {"out": torch.empty_like(x)}),
        (gathered(bnkern.backward_reduce, **relu), backward),
        (gathered(bnkern.backward_apply, **relu), backward | sums | {"out": torch.empty_like(x)}),
        (gathered(bnkern.update_running), running | {"mean": mean, "var": var}),
        (lambda mean, var: bnkern.merge_stats([(mean, var, 3)]), {"mean": mean, "var": var}),
        (bnkern.fold_batch_norm, {"conv_weight": torch.ones(5, 2), "conv_bias": w.clone(), **running, "weight": b}),
    ]


def test_requires_grad_is_never_dropped_in_silence(case):
    """Each array argument of each function: with gradients on an error with its name and the remedy, else values."""
    for function, arguments in calls(case):
        for name in arguments:
            changed = {key: t.clone() for key, t in arguments.items()}
            changed[name].requires_grad_()
            with pytest.raises(TypeError, match=rf"{name}: .*does not require grad.*torch\.no_grad\(\).*detach\(\)"):
                function(**changed)
            with torch.no_grad():
                function(**changed)


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(torch.ones(4, 5))


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(4, 5), torch.ones(3, 5)])


class Mine(torch.Tensor):
    pass


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4, 5), 0.1, 0, torch.quint8)


ODD = {
    "sparse": (lambda: torch.ones(4, 5).to_sparse(), "layout torch.sparse_coo"),
    "sparse rows": (lambda: csr(), "layout torch.sparse_csr"),
    "nested": (nested, "nested"),
    "quantised": (quantised, "quantised"),
    "negated view": (lambda: torch.ones(4, 5, dtype=torch.complex64).conj().imag, "resolve_neg"),
    "conjugated": (lambda: torch.ones(4, 5, dtype=torch.complex64).conj(), "conjugates"),
    "meta": (lambda: torch.ones(4, 5, device="meta"), "a meta tensor has no values"),
    "fake": (fake, "its subclass FakeTensor.*torch.compiler.disable"),
    "subclass": (lambda: torch.ones(4, 5).as_subclass(Mine), "its subclass Mine"),
    "complex": (lambda: torch.ones(4, 5, dtype=torch.complex64), "torch.complex64"),
    "uninitialised": (lambda: torch.nn.UninitializedParameter(), "its subclass UninitializedParameter"),
}


def csr():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ones(4, 5).to_sparse_csr()


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_tensor_is_refused_by_name(odd):
    make, words = ODD[odd]
    with pytest.raises(TypeError, match=f"x: expected .*got .*{words}"):
        bnkern.batch_norm_train(make())
    if odd not in ("uninitialised", "complex", "nested", "quantised", "conjugated"):
        with pytest.raises(TypeError, match=f"residual: expected .*got .*{words}"):
            bnkern.batch_norm_train(torch.ones(4, 5), residual=make())


# PyTorch's own, when forward-mode differentiation is first used.
old_jit = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@old_jit
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_transforms_of_torch_func(transform):
    x = torch.randn(3, 4, 5)

    def function(t):
        return bnkern.batch_norm_train(t)[0].sum()

    call = {
        "grad": lambda: torch.func.grad(function)(x),
        "vmap": lambda: torch.func.vmap(function)(x),
        "jvp": lambda: torch.func.jvp(function, (x,), (x,)),
    }[transform]
    with pytest.raises(TypeError, match=r"x: expected a tensor with memory, got one wrapped by a transform"):
        call()


@old_jit
def test_tangents_are_not_dropped():
    from torch.autograd import forward_ad

    x = torch.randn(4, 5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(TypeError, match=r"x: .*a dual tensor"):
            bnkern.batch_norm_train(dual)
        bnkern.batch_norm_train(x)


def test_other_devices_are_named():
    x, meta = torch.ones(4, 5), torch.ones(5, device="meta")
    with pytest.raises(TypeError, match=r"weight: .*a meta tensor has no values"):
        bnkern.batch_norm_train(x, weight=meta)


def test_torch_compile_is_told_what_to_do(python):
    """Traced whole, the call is refused with a remedy; and with that remedy it works."""
    code = """
import torch, bnkern
x = torch.randn(4, 5)
try:
    torch.compile(lambda x: bnkern.batch_norm_train(x)[0], fullgraph=True, backend="eager")(x)
except Exception as error:
    assert "x: expected a tensor with values, got one that torch.compile traces" in str(error), error
    assert "@torch.compiler.disable" in str(error)
else:
    raise AssertionError("traced")
train = torch.compiler.disable(bnkern.batch_norm_train)
y = torch.compile(lambda x: 2 * train(x)[0], backend="eager")(x)
assert torch.equal(y, 2 * bnkern.batch_norm_train(x)[0])
"""
    python(code, timeout=300)

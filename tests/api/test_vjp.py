"""`batch_norm_vjp`: the gradients of `batch_norm_backward`, with nothing of the forward call said twice."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import Backend

import bnkern

NEEDS = ("x", "weight", "bias", "residual")


def same(got, want, back=lambda a: a):
    for field, a, b in zip(got._fields, got, want, strict=True):
        assert (a is None) == (b is None), field
        assert a is None or same_bits(back(a), back(b)), field


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_every_option_is_remembered(training, with_residual, activation):
    """An axis, an eps and an activation that are not the defaults: forgetting one changes the gradient."""
    case = cases.make((4, 6, 5, 3), -1)
    how = {"weight": case.weight, "bias": case.bias, "axis": -1, "eps": 0.5, "activation": activation}
    mean, var = case.bias.copy(), case.weight**2
    residual = case.residual if with_residual else None
    running = {"running_mean": mean.copy(), "running_var": var.copy()}
    y, stats, vjp = bnkern.batch_norm_vjp(case.x, training=training, residual=residual, **running, **how)
    if training:
        want, want_stats = bnkern.batch_norm_train(case.x, residual=residual, **how)
        assert not same_bits(running["running_mean"], mean), "updated as by batch_norm_train"
    else:
        want = bnkern.batch_norm_inference(case.x, running_mean=mean, running_var=var, residual=residual, **how)
        want_stats = bnkern.BatchStats(mean, var, None)
        assert same_bits(running["running_mean"], mean)
    assert same_bits(y, want)
    assert all(same_bits(a, b) for a, b in zip(stats[:2], want_stats[:2], strict=True))
    assert stats.count == want_stats.count

    needs = NEEDS if with_residual else NEEDS[:3]
    expected = bnkern.batch_norm_backward(
        case.dy, case.x, want_stats, y=y if with_residual else None, frozen=not training, needs=needs, **how
    )
    same(vjp(case.dy), expected)
    same(vjp(case.dy), expected)  # as often as one likes
    assert vjp(case.dy, needs=("bias",)).dx is None
    out = np.empty_like(case.x)
    assert vjp(case.dy, out=out).dx is out
    assert same_bits(out, expected.dx)


def test_running_statistics_of_the_forward_call_are_used():
    """With training=False they are copied: a training step in between updates the user's in place."""
    case = cases.make((6, 5, 7), 1)
    running = {"running_mean": case.bias.copy(), "running_var": case.weight**2}
    _, _, vjp = bnkern.batch_norm_vjp(case.x, training=False, **running)
    before = vjp(case.dy).dx
    bnkern.batch_norm_train(case.x, **running)
    assert same_bits(vjp(case.dy).dx, before)


def test_gradients_of_what_was_given():
    case = cases.make((6, 5, 7), 1)
    _, _, vjp = bnkern.batch_norm_vjp(case.x)
    assert [a is None for a in vjp(case.dy)] == [False, True, True, True]
    _, _, vjp = bnkern.batch_norm_vjp(case.x, bias=case.bias, residual=case.residual)
    grads = vjp(case.dy)
    assert [a is None for a in grads] == [False, True, False, False]
    assert grads.dresidual is case.dy
    assert "gradients of x, bias, residual" in repr(vjp)


def test_misuse():
    case = cases.make((6, 5, 7), 1)
    _, _, vjp = bnkern.batch_norm_vjp(case.x)
    with pytest.raises(TypeError, match=r"vjp\(dy, needs=needs, out=out\)"):
        vjp(case.dy, ("x",))
    with pytest.raises(ValueError, match="dy: expected shape"):
        vjp(case.dy[1:])
    before = case.x.copy()
    for out in (case.x, case.x[::-1]):
        with pytest.raises(ValueError, match="out: expected memory apart from x"):
            bnkern.batch_norm_vjp(case.x, out=out)
    with pytest.raises(TypeError, match="running_mean: expected an array"):
        bnkern.batch_norm_vjp(case.x, training=False)
    with pytest.raises(TypeError, match="training: expected True or False"):
        bnkern.batch_norm_vjp(case.x, training=1)
    assert same_bits(case.x, before)


@pytest.mark.parametrize("training", [True, False])
def test_every_library(backend, training):
    """JAX under jit too: the closure is made and called in one trace."""
    case = cases.make((4, 6, 5, 3), 1)

    def run(a):
        how = {"weight": a["weight"], "bias": a["bias"], "activation": "relu", "residual": a["residual"], "eps": 0.5}
        running = {} if training else {"running_mean": a["bias"], "running_var": a["var"]}
        y, _, vjp = bnkern.batch_norm_vjp(a["x"], training=training, **running, **how)
        return y, *vjp(a["dy"])

    arrays = {name: getattr(case, name) for name in ("x", "dy", "weight", "bias", "residual")}
    arrays["var"] = case.weight**2
    given = {name: backend.make(a) for name, a in arrays.items()}
    for got, want in zip(backend.run(run, given), run(arrays), strict=True):
        if backend.same_bits and backend is not Backend.JAX_32:
            assert same_bits(backend.back(got), want)
        else:
            np.testing.assert_allclose(backend.back(got), want, rtol=2e-5, atol=2e-5)


def test_what_the_next_call_reads_is_not_written():
    case = cases.make((4, 6, 5), 1)
    y, _, vjp = bnkern.batch_norm_vjp(case.x, residual=case.residual, activation="relu")
    before = vjp(case.dy)
    for name, out in {"x": case.x, "y": y}.items():
        with pytest.raises(ValueError, match=f"out: expected memory apart from {name}"):
            vjp(case.dy, out=out)
    same(vjp(case.dy), before)


def test_the_gradient_of_a_residual_that_was_not_given():
    _, _, vjp = bnkern.batch_norm_vjp(cases.make((4, 6, 5), 1).x, activation="relu")
    with pytest.raises(ValueError, match="needs: expected no 'residual'"):
        vjp(np.ones((4, 6, 5), np.float32), needs=("x", "residual"))

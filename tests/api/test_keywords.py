"""Everything but what a call is about goes by keyword: weight, bias and running statistics are all (C,) numbers."""

import inspect

import numpy as np
import pytest
from helpers.bad_calls import good

import bnkern

PLACED = {
    "batch_norm_inference": ("x",),
    "batch_norm_train": ("x",),
    "batch_norm_vjp": ("x",),
    "batch_norm_backward": ("dy", "x", "stats"),
    "batch_stats": ("x",),
    "merge_stats": ("parts",),
    "update_running": ("stats",),
    "backward_reduce": ("dy", "x", "stats"),
    "backward_apply": ("dy", "x", "stats", "sums"),
    "fold_batch_norm": ("conv_weight",),
}


@pytest.mark.parametrize("name", PLACED)
def test_what_has_a_place_may_be_given_by_it(name):
    arguments = good(name)
    placed = [arguments.pop(key) for key in PLACED[name]]
    getattr(bnkern, name)(*placed, **arguments)


@pytest.mark.parametrize("name", PLACED)
def test_one_more_by_position_is_refused_with_the_keyword_form(name):
    """Nothing is written: y and buffers of the old argument order stay what they were."""
    arguments = good(name)
    buffers = {key: a.copy() for key, a in arguments.items() if isinstance(a, np.ndarray)}
    placed = [arguments[key] for key in PLACED[name]]
    with pytest.raises(TypeError) as caught:
        getattr(bnkern, name)(*placed, np.ones(3, np.float32))
    message = str(caught.value)
    assert message.startswith(f"{name} takes ")
    assert f"by position and everything else by keyword: {name}({', '.join(PLACED[name])}" in message
    signature = inspect.signature(getattr(bnkern, name))
    named = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(f"{key}={key}" in message for key in named[:4])
    assert all(np.array_equal(arguments[key], a) for key, a in buffers.items())


def test_the_swap_that_could_not_be_seen():
    """PyTorch's order: before, y was 1 everywhere and the user's weight and bias were overwritten."""
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    mean, var, weight, bias = np.zeros(3), np.ones(3), np.full(3, 2.0), np.full(3, 5.0)
    with pytest.raises(TypeError, match=r"batch_norm_train\(x, weight=weight, bias=bias, running_mean=running_mean"):
        bnkern.batch_norm_train(x, mean, var, weight, bias)
    assert weight.tolist() == [2] * 3
    assert bias.tolist() == [5] * 3


@pytest.mark.parametrize(
    ("name", "missing"),
    [("batch_norm_inference", "running_mean"), ("update_running", "running_var"), ("fold_batch_norm", "running_mean")],
)
def test_what_is_left_out_is_named(name, missing):
    arguments = good(name)
    del arguments[missing]
    with pytest.raises(TypeError, match=f"{missing}: expected an array"):
        getattr(bnkern, name)(**arguments)


def test_type_checkers_see_it_too():
    """`*misplaced: Never` in the source: what is given there is a type error before the program runs."""
    for name in PLACED:
        function = getattr(bnkern, name)
        assert function.__annotations__["misplaced"] == "Never"
        assert function.__code__.co_flags & inspect.CO_VARARGS

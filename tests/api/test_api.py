"""The names and signatures users see, as design.md fixes them: to change one is a decision, no accident."""

import importlib.metadata
import inspect

import numpy as np
import pytest

import bnkern
from bnkern._native import kernels

SIGNATURES = {
    "batch_norm_inference": "x, *, running_mean, running_var, weight=None, bias=None, axis=1, eps=1e-05, "
    "activation=None, residual=None, out=None",
    "batch_norm_train": "x, *, weight=None, bias=None, running_mean=None, running_var=None, axis=1, "
    "eps=1e-05, momentum=0.1, num_batches=None, correction=1, ghost_batch_size=None, activation=None, "
    "residual=None, out=None",
    "batch_norm_vjp": "x, *, training=True, weight=None, bias=None, running_mean=None, running_var=None, axis=1, "
    "eps=1e-05, momentum=0.1, num_batches=None, correction=1, ghost_batch_size=None, activation=None, "
    "residual=None, out=None",
    "batch_norm_backward": "dy, x, stats, *, weight=None, bias=None, axis=1, eps=1e-05, frozen=False, "
    "ghost_batch_size=None, activation=None, y=None, needs=('x', 'weight', 'bias'), out=None",
    "batch_stats": "x, *, axis=1",
    "merge_stats": "parts",
    "update_running": "stats, *, running_mean, running_var, momentum=0.1, num_batches=None, correction=1",
    "backward_reduce": "dy, x, stats, *, weight=None, bias=None, axis=1, eps=1e-05, activation=None, y=None",
    "backward_apply": "dy, x, stats, sums, *, weight=None, bias=None, axis=1, eps=1e-05, activation=None, "
    "y=None, out=None",
    "fold_batch_norm": "conv_weight, *, conv_bias=None, running_mean, running_var, weight=None, bias=None, "
    "eps=1e-05, out_axis=0, groups=1",
    "set_num_threads": "n",
    "get_default_memory_pool": "",
    "get_num_threads": "",
    "threads": "n",
    "explain": "x, axis=1, op='train'",
    "show_config": "mode='stdout'",
    "get_include": "",
}
TUPLES = {
    "BatchStats": ("mean", "var", "count"),
    "GradSums": ("sum_dy", "sum_dy_xhat"),
    "BatchNormGrads": ("dx", "dweight", "dbias", "dresidual"),
}


def test_public_names():
    others = {"Array", "BatchNorm", "Explanation", "MemoryPool", "StatsAccumulator", "__version__"}
    assert set(bnkern.__all__) == {*SIGNATURES, *TUPLES, *others}
    assert [name for name in bnkern.__all__ if not hasattr(bnkern, name)] == []
    assert set(bnkern.__all__) <= set(dir(bnkern))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    signature = inspect.signature(getattr(bnkern, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


@pytest.mark.parametrize("name", TUPLES)
def test_result_tuples(name):
    cls = getattr(bnkern, name)
    assert cls._fields == TUPLES[name]
    assert issubclass(cls, tuple)


@pytest.mark.parametrize("name", SIGNATURES)
def test_docstring_in_the_style_of_numpy(name):
    """A summary line, every parameter by name, and the sections that apply."""
    doc = inspect.getdoc(getattr(bnkern, name))
    assert doc.splitlines()[0].endswith((".", ":")) or "=" in doc.splitlines()[0]
    parameters = list(inspect.signature(getattr(bnkern, name)).parameters)
    assert [p for p in parameters if p not in doc] == []
    assert "Parameters\n---" in doc or not parameters
    assert any(f"{section}\n---" in doc for section in ("Returns", "Raises", "Examples"))


@pytest.mark.parametrize("name", TUPLES)
def test_result_tuples_explain_their_fields(name):
    doc = inspect.getdoc(getattr(bnkern, name))
    assert [field for field in TUPLES[name] if field not in doc] == []


def test_version_stands_in_one_place():
    assert bnkern.__version__ == importlib.metadata.version("bnkern")


def test_unknown_name():
    with pytest.raises(AttributeError, match="gelu"):
        bnkern.gelu  # noqa: B018


def test_results_are_of_the_public_types():
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    y, stats = bnkern.batch_norm_train(x)
    assert type(y) is np.ndarray
    assert (
        type(stats) is type(bnkern.batch_stats(x)) is type(bnkern.merge_stats([stats])) is bnkern.BatchStats
    )
    assert type(bnkern.batch_norm_backward(x, x, stats)) is bnkern.BatchNormGrads
    assert type(bnkern.backward_reduce(x, x, stats)) is bnkern.GradSums
    assert type(stats.count) is int


def test_sums_of_parts_add_up():
    part = bnkern.GradSums(np.array([1.0, 2]), np.array([3.0, 4]))
    for both in (part + part, sum([part, part])):
        assert both.sum_dy.tolist() == [2, 4]
        assert both.sum_dy_xhat.tolist() == [6, 8]


# ---------------------------------------------------------------- what the library says about itself


@pytest.mark.parametrize("op", ["train", "inference", "backward", "stats"])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (8, 3)], ids=str)
def test_explain_says_how_a_call_runs(shape, op):
    text = str(bnkern.explain(np.zeros(shape, np.float32), 1, op))
    for word in ("CPU kernels", "channels", kernels.level(), "threads", "moved", "at least"):
        assert word in text, text


def test_explain_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="op"):
        bnkern.explain(np.zeros((4, 3), np.float32), 1, "fly")
    with pytest.raises(TypeError, match="x"):
        bnkern.explain([1.0])


def test_show_config(capsys):
    bnkern.show_config()
    said = capsys.readouterr().out
    for word in (bnkern.__version__, np.__version__, kernels.level(), "OpenMP", "thread"):
        assert word in said, said

"""Numbers per channel: one implementation for every library in CPU memory, so the same bits whatever array they are."""

import numpy as np
import pytest
from helpers import cases
from helpers.compare import same_bits
from helpers.libraries import Backend

import bnkern

CPU = [b for b in (Backend.TORCH, Backend.TORCH_STRIDED, Backend.JAX) if b.installed]


def results(make, back, dtype):
    """merge_stats, update_running and fold_batch_norm of many random channels."""
    rng = np.random.default_rng(0)
    n = 3000
    vectors = [rng.standard_normal(n).astype(dtype) for _ in range(6)]
    mean, var, other_mean, other_var, weight, bias = map(
        make, [vectors[0], vectors[1] ** 2, vectors[2], vectors[3] ** 2, *vectors[4:]]
    )
    conv = make(rng.standard_normal((n, 3)).astype(dtype))
    merged = bnkern.merge_stats([(mean, var, 7), (other_mean, other_var, 12), (weight, other_var, 0)])
    running = bnkern.update_running((mean, var, 7), running_mean=other_mean, running_var=other_var, momentum=0.3)
    kept = bnkern.update_running((mean, var, 0), running_mean=other_mean, running_var=other_var)
    folded = bnkern.fold_batch_norm(
        conv, conv_bias=bias, running_mean=mean, running_var=var, weight=weight, bias=other_mean
    )
    return {
        name: back(a)
        for name, a in zip(
            ("mean", "var", "running_mean", "running_var", "kept mean", "kept var", "weight", "bias"),
            (*merged[:2], *running, *kept, *folded),
            strict=True,
        )
    }


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("kind", CPU, ids=str)
def test_same_bits_in_every_library(kind, dtype):
    with kind.setting():
        got = results(kind.make, kind.back, dtype)
    want = results(lambda a: a, lambda a: a, dtype)
    assert [name for name in want if got[name].dtype != want[name].dtype] == []
    assert [name for name in want if not same_bits(got[name], want[name])] == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", [Backend.NUMPY, *CPU], ids=str)
def test_the_pure_twin_rounds_once(kind, dtype):
    """update_running and the in-place update of batch_norm_train, to the bit, in many channels."""
    x = np.random.default_rng(1).standard_normal((4, 20_000)).astype(dtype)
    old = x[0].copy(), (x[1] ** 2).astype(dtype)
    new = old[0].copy(), old[1].copy()
    _, stats = bnkern.batch_norm_train(x, running_mean=new[0], running_var=new[1], momentum=0.3)
    with kind.setting():
        given = [kind.make(a) for a in (stats.mean, stats.var, *old)]
        pure = bnkern.update_running(
            (*given[:2], stats.count), running_mean=given[2], running_var=given[3], momentum=0.3
        )
        assert same_bits(kind.back(pure[0]), new[0])
        assert same_bits(kind.back(pure[1]), new[1])


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_byte_swapped_buffers(dtype):
    """Results are in this machine's order; the buffers of batch_norm_train stay in theirs."""
    x = cases.make((6, 5, 7), 1, np.dtype(dtype).newbyteorder("=")).x
    stats = bnkern.batch_stats(x)
    mean, var = np.linspace(-1, 1, 5).astype(dtype), np.linspace(1, 2, 5).astype(dtype)
    native = {"running_mean": mean.astype(x.dtype), "running_var": var.astype(x.dtype)}
    want = bnkern.update_running(stats, **native)
    got = bnkern.update_running(stats, running_mean=mean, running_var=var)
    assert all(a.dtype.isnative and same_bits(a, b) for a, b in zip(got, want, strict=True))
    kept = bnkern.update_running(stats._replace(count=0), running_mean=mean, running_var=var)
    assert same_bits(kept[0], native["running_mean"])
    bnkern.batch_norm_train(x, running_mean=mean, running_var=var)
    assert mean.dtype == np.dtype(dtype)
    assert same_bits(mean.astype(x.dtype), want[0])
    assert same_bits(var.astype(x.dtype), want[1])
    merged = bnkern.merge_stats([(mean, var, 3), (mean, var, 4)])
    np.testing.assert_allclose(merged.mean, want[0].astype(float), rtol=1e-6)
    folded = bnkern.fold_batch_norm(np.ones((5, 2), dtype), running_mean=mean, running_var=var)
    assert same_bits(
        folded[0], bnkern.fold_batch_norm(np.ones((5, 2), x.dtype), running_mean=want[0], running_var=want[1])[0]
    )


@pytest.mark.parametrize(
    "values", [[np.inf, 1, 2], [-np.inf, 1, 2], [1, np.inf, 2], [np.inf, -np.inf, 0], [np.nan, 1, 2]]
)
def test_infinities_wherever_they_lie(backend, values):
    """A mean of Inf is Inf by the kernels and by the array API alike, also where Inf is a channel's first value."""
    x = np.array([[v, i] for i, v in enumerate(values)], np.float32)
    want = bnkern.batch_stats(x)
    got = backend.run(lambda a: bnkern.batch_stats(a["x"])[:2], {"x": backend.make(x)})
    np.testing.assert_array_equal(backend.back(got[0]), want.mean)
    np.testing.assert_allclose(backend.back(got[1]), want.var)

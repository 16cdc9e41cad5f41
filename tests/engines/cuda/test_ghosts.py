"""Ghost batches on the GPU engine, by emulation: separate calls to the bit, each writing its rows of the result."""

import numpy as np
from helpers import cases, fake_cupy
from helpers.compare import same_bits

import bnkern


def test_one_call_is_separate_calls(chip):
    case = cases.make((7, 3, 5, 5), 1)
    x, dy, weight = (fake_cupy.asarray(a) for a in (case.x, case.dy, case.weight))
    running = fake_cupy.asarray(np.zeros(3)), fake_cupy.asarray(np.ones(3))
    y, stats = bnkern.batch_norm_train(
        x, weight=weight, ghost_batch_size=3, running_mean=running[0], running_var=running[1]
    )
    grads = bnkern.batch_norm_backward(dy, x, stats, weight=weight, ghost_batch_size=3)
    assert stats.count == (75, 75, 25)
    sums = []
    for i, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        part, g = x[rows, ...], dy[rows, ...]
        y_alone, alone = bnkern.batch_norm_train(part, weight=weight)
        assert same_bits(y_alone.get(), y.get()[rows])
        assert same_bits(alone.mean.get(), stats.mean.get()[i])
        dx = bnkern.batch_norm_backward(g, part, alone, weight=weight).dx
        assert same_bits(dx.get(), grads.dx.get()[rows])
        sums.append(bnkern.backward_reduce(g, part, alone).sum_dy.get())
    assert same_bits(grads.dbias.get(), sum(sums[1:], start=sums[0]).astype(np.float32))
    np.testing.assert_allclose(running[0].get(), 0.1 * case.x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(running[1].get(), 0.9 + 0.1 * case.x.var((0, 2, 3), ddof=1), rtol=1e-5)

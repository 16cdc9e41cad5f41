"""Split = whole: whatever a batch is cut into, forward, running statistics and gradients are those of the whole.

Differences of the two are in units in the last place of the scales of helpers.compare.

float64: the means of the parts, their merge and the mean of the whole are rounded once each, half a unit and twice that
where a pivot is added back: two units; variances enter by their root, another one; y and dx are rounded three times on
either side: six in the worst case. Two is what nineteen of twenty problems keep to.

The other dtypes have sums in float64: each side is as near to the truth as it is promised to be (`UNITS`), so both are
within twice that of each other.
"""

import numpy as np
from helpers import cases
from helpers.compare import LD, UNITS, grad_scales, units, y_scale
from hypothesis import given
from hypothesis import strategies as st

import bnkern

LIMIT = {name: 6 if name == "float64" else 2 * limit for name, limit in UNITS.items()}
ALL = ("x", "weight", "bias", "residual")


@st.composite
def problems(draw):
    rank = draw(st.integers(2, 4))
    shape = (draw(st.integers(2, 12)), *(draw(st.integers(1, 6)) for _ in range(rank - 1)))
    channels = draw(st.integers(1, rank - 1))
    cut_along = draw(st.sampled_from([a for a in range(rank) if a != channels]))
    cuts = sorted(draw(st.lists(st.integers(0, shape[cut_along]), max_size=5)))
    dtype = draw(st.sampled_from(cases.DTYPES))
    memory = draw(st.sampled_from([name for name in cases.LAYOUTS if rank > 2 or "channels" not in name]))
    case = cases.make(shape, channels, dtype, seed=draw(st.integers(0, 99)))
    return case.map(cases.LAYOUTS[memory]), cut_along, cuts, draw(st.sampled_from([None, "relu"]))


def in_parts(case, along, cuts, activation):
    how = {"weight": case.weight, "bias": case.bias, "axis": case.axis, "activation": activation}
    pieces = [np.split(a, cuts, axis=along) for a in (case.x, case.dy, case.residual)]
    stats = bnkern.merge_stats([bnkern.batch_stats(x, axis=case.axis) for x in pieces[0]])
    given_stats = {"running_mean": stats.mean, "running_var": stats.var}
    ys = [bnkern.batch_norm_inference(x, residual=r, **given_stats, **how) for x, _, r in zip(*pieces, strict=True)]
    running = bnkern.update_running(
        stats, running_mean=np.zeros_like(stats.mean), running_var=np.ones_like(stats.var), correction=0
    )
    back = [{"y": y} if activation else {} for y in ys]
    each = list(zip(pieces[1], pieces[0], back, strict=True))
    sums = sum(bnkern.backward_reduce(dy, x, stats, **how, **y) for dy, x, y in each)
    dxs = [bnkern.backward_apply(dy, x, stats, sums, **how, **y) for dy, x, y in each]
    join = [np.concatenate(arrays, axis=along) for arrays in (ys, dxs)]
    return {"y": join[0], "dx": join[1], "running_mean": running[0], "running_var": running[1],
            "dweight": sums.sum_dy_xhat, "dbias": sums.sum_dy}  # fmt: skip


def as_a_whole(case, y_of_parts, activation):
    """The backward pass gets the y of the parts: a unit at the edge of ReLU would let other gradients through."""
    how = {"weight": case.weight, "bias": case.bias, "axis": case.axis, "activation": activation}
    running = {"running_mean": np.zeros(case.channels), "running_var": np.ones(case.channels)}
    y, stats = bnkern.batch_norm_train(case.x, residual=case.residual, correction=0, **running, **how)
    sums = bnkern.backward_reduce(case.dy, case.x, stats, **how, **({"y": y_of_parts} if activation else {}))
    dx = bnkern.backward_apply(case.dy, case.x, stats, sums, **how, **({"y": y_of_parts} if activation else {}))
    return {"y": y, "dx": dx, **running, "dweight": sums.sum_dy_xhat, "dbias": sums.sum_dy}, stats


@given(problems())
def test_any_split_is_the_whole(problem):
    case, along, cuts, activation = problem
    if case.x.size == case.channels:
        return  # one value per channel
    for name, off in differences(case, along, cuts, activation).items():
        assert off <= LIMIT[case.x.dtype.name], (name, off)


def test_two_units_in_float64_are_the_rule():
    """y, gradients and running statistics of all channels of a problem, in all but one of twenty problems."""
    rng, found = np.random.default_rng(0), []
    for seed in range(300):
        case = cases.make((int(rng.integers(2, 13)), 3, int(rng.integers(1, 6))), 1, "float64", seed)
        cuts = sorted(rng.integers(0, len(case.x) + 1, 3))
        found.append(max(differences(case, 0, cuts, None).values()))
    assert np.mean(np.array(found) <= 2) >= 0.95


def differences(case, along, cuts, activation):
    """The largest difference of each result, in units."""
    got = in_parts(case, along, cuts, activation)
    want, stats = as_a_whole(case, got["y"], activation)
    mean, var = (np.asarray(v, LD) for v in stats[:2])
    g = np.where(got["y"] > 0, case.dy, 0).astype(case.dy.dtype) if activation else case.dy
    own = np.abs(mean) if case.x.dtype == np.float64 else 0
    of_grads = grad_scales(g, case.x, mean, var, case.weight, case.axis)
    scales = dict(zip(("dx", "dweight", "dbias"), of_grads, strict=True))
    scales["y"] = y_scale(case.x, mean, var, case.weight, case.bias, case.residual, case.axis)
    scales["running_mean"], scales["running_var"] = np.sqrt(var) + own, 1 + var + own * np.sqrt(var)
    return {name: units(got[name], want[name], scales[name], case.x.dtype) for name in got}


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from(cases.WIDE))
def test_ghost_batches_are_parts(samples, size, dtype):
    """The statistics of all ghost batches, merged, normalise and differentiate as those of the whole."""
    case = cases.make((samples, 3, 5), 1, dtype)
    _, ghosts = bnkern.batch_norm_train(case.x, ghost_batch_size=size)
    merged, whole = bnkern.merge_stats(zip(*ghosts, strict=True)), bnkern.batch_stats(case.x)
    mean, var = (np.asarray(v, LD) for v in whole[:2])
    y = [bnkern.batch_norm_inference(case.x, running_mean=s.mean, running_var=s.var) for s in (merged, whole)]
    dx = [bnkern.batch_norm_backward(case.dy, case.x, s).dx for s in (merged, whole)]
    assert units(*y, y_scale(case.x, mean, var), dtype) <= LIMIT[dtype]
    assert units(*dx, grad_scales(case.dy, case.x, mean, var)[0], dtype) <= LIMIT[dtype]

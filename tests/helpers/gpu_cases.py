"""Problems for the GPU kernels, and every result of them held against the oracle: by emulation and on a GPU alike."""

import numpy as np

import bnkern
from helpers import cases, compare, oracle

DTYPES = ["float32", "float64", "float16", "bfloat16"]
LD = np.longdouble

# Both layouts; sizes that leave a rest in a slot, a group of slots, a unit, a row of slots and a block.
SHAPES = [
    ((2, 3), 1),
    ((3, 1, 5), 1),
    ((1, 3, 4, 4), 1),
    ((1, 2, 1031), 1),
    ((2, 3, 7, 7), 1),
    ((33, 5, 7), 1),  # short rows, taken as columns
    ((5, 2, 40, 41), 1),
    ((3, 1, 2500), 1),
    ((67, 1), -1),
    ((41, 3), -1),
    ((3, 7, 9, 8), -1),
    ((2, 5, 7, 33), -1),
    ((130, 300), -1),
    ((9, 1031), 1),
    ((3, 4, 5, 6), 2),
]


def make(shape, axis, dtype, offset=0.0, spread=1.0):
    """`cases.make`, rounded to any dtype, about an offset."""
    case = cases.make(shape, axis, "float64")
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    arrays = case.x * spread + offset, case.dy, case.weight, case.bias, case.residual
    return cases.Case(*(a.astype(dtype) for a in arrays), axis)


def steps_of(values, dtype):
    """One unit in the last place of each value, in any of DTYPES."""
    bits, least = {"float64": (52, -1074), "float32": (23, -149), "float16": (10, -24), "bfloat16": (7, -133)}[dtype]
    _, exponent = np.frexp(np.abs(values))
    return np.ldexp(LD(1), np.maximum(exponent - 1 - bits, least))


def assert_near(actual, expected, scale, name, arithmetic):
    """Within the arithmetic's units of `scale`, as compare.py has them, and one rounding to the dtype of the result."""
    dtype = np.dtype(actual.dtype).name
    arithmetic = arithmetic if arithmetic == "float64" else "float32"
    narrow = actual.dtype.itemsize == 2
    actual, expected, scale = np.asarray(actual, LD), np.asarray(expected, LD), np.broadcast_to(scale, expected.shape)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=name)
    if dtype == "float16":  # what rounds to infinity
        finite &= np.abs(expected) < 65500
    allowed = compare.UNITS[arithmetic] * compare.spacing(scale, arithmetic)
    if narrow:
        allowed = allowed + 0.5 * steps_of(np.abs(expected) + allowed, dtype)
    error = np.abs(actual[finite] - expected[finite])
    worst = np.max(error / allowed[finite], initial=0.0)
    assert worst <= 1, f"{name}: off by {float(worst):.3g} times what is allowed"


class Problem:
    """A case with its true statistics, and the case where the kernels are: `put` brings arrays there, `get` back."""

    def __init__(self, case, put, get):
        self.case, self.get, self.put, self.dtype = case, get, put, np.dtype(case.x.dtype).name
        self.x, self.dy, self.residual = put(case.x), put(case.dy), put(case.residual)
        self.weight, self.bias = put(case.weight), put(case.bias)
        with np.errstate(all="ignore"):
            self.mean, self.var, self.count = oracle.stats(case.x, case.axis, LD)

    def check(self):
        """Everything that there is to call."""
        self.check_stats()
        self.check_forward()
        self.check_backward()
        self.check_frozen()
        self.check_relu()
        self.check_parts()

    def check_stats(self):
        mean, var, count = bnkern.batch_stats(self.x, axis=self.case.axis)
        assert count == self.count
        assert str(mean.dtype) == str(var.dtype) == "float64"
        std = np.sqrt(self.var + LD(1e-30))
        off = np.abs(self.get(mean) - self.mean) / std
        assert np.max(off, initial=0) < 1e-6, "mean"
        assert np.max(np.abs(self.get(var) / self.var - 1)[self.var > 0], initial=0) < 1e-6, "var"

    def _near(self, got, expected, scale, name):
        assert_near(self.get(got), expected, scale, name, self.dtype)

    def _y(self, got, name, **options):
        c = self.case
        expected = oracle.forward(c.x, self.mean, self.var, axis=c.axis, dtype=LD, **options)
        options.pop("relu", None)
        scale = compare.y_scale(c.x, self.mean, self.var, axis=c.axis, **options)
        self._near(got, expected, scale, name)

    def check_forward(self):
        c, axis = self.case, self.case.axis
        running = [self.put(np.zeros(c.channels)), self.put(np.ones(c.channels))]
        y, self.stats = bnkern.batch_norm_train(
            self.x, weight=self.weight, bias=self.bias, running_mean=running[0], running_var=running[1], axis=axis
        )
        self._y(y, "y", weight=c.weight, bias=c.bias)
        unbiased = oracle.unbiased(self.var, self.count)
        np.testing.assert_allclose(self.get(running[0]).astype(LD), 0.1 * self.mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(self.get(running[1]).astype(LD), 0.9 + 0.1 * unbiased, rtol=1e-6)
        bare, _ = bnkern.batch_norm_train(self.x, axis=axis)
        self._y(bare, "bare y")
        again = bnkern.batch_norm_inference(
            self.x,
            running_mean=self.stats.mean,
            running_var=self.stats.var,
            weight=self.weight,
            bias=self.bias,
            axis=axis,
        )
        assert compare.same_bits(self.get(again), self.get(y)), "training is not statistics and then inference"
        fused = {"axis": axis, "activation": "relu", "residual": self.residual}
        self.fused, _ = bnkern.batch_norm_train(self.x, weight=self.weight, bias=self.bias, **fused)
        self._y(self.fused, "y with residual and ReLU", weight=c.weight, bias=c.bias, residual=c.residual, relu=True)
        place = self.put(c.x)  # in memory of its own, so it is asked twice
        y, _ = bnkern.batch_norm_train(place, weight=self.weight, bias=self.bias, axis=axis)
        bnkern.batch_norm_train(place, weight=self.weight, bias=self.bias, axis=axis, out=place)
        assert compare.same_bits(self.get(place), self.get(y)), "in place"

    def _grads(self, got, name, y=None, **options):
        c = self.case
        true = c.dy, c.x, self.mean, self.var, c.weight
        y = None if y is None else self.get(y)
        expected = oracle.backward(*true, axis=c.axis, y=y, dtype=LD, **options)
        dy = expected.dresidual
        scales = compare.grad_scales(dy, c.x, self.mean, self.var, c.weight, c.axis, **options)
        for field, scale in zip(("dx", "dweight", "dbias"), scales, strict=True):
            if getattr(got, field) is not None:
                self._near(getattr(got, field), getattr(expected, field), scale, f"{name} {field}")
        if got.dresidual is not None:
            self._near(got.dresidual, dy, np.abs(dy), f"{name} dresidual")

    def _backward(self, **options):
        needs = {"needs": ("x", "weight", "bias", "residual")} | options
        return bnkern.batch_norm_backward(
            self.dy, self.x, self.stats, weight=self.weight, bias=self.bias, axis=self.case.axis, **needs
        )

    def check_backward(self):
        grads = self._backward()
        assert grads.dresidual is self.dy
        self._grads(grads, "backward")
        sums = self._backward(needs=("weight", "bias"))
        assert compare.same_bits(self.get(sums.dweight), self.get(grads.dweight))

    def check_frozen(self):
        self._grads(self._backward(frozen=True), "frozen", frozen=True)
        self._grads(self._backward(frozen=True, needs=("x",)), "frozen dx alone", frozen=True)

    def check_relu(self):
        self._grads(self._backward(activation="relu", y=self.fused), "residual", y=self.fused)
        y, _ = bnkern.batch_norm_train(
            self.x, weight=self.weight, bias=self.bias, axis=self.case.axis, activation="relu"
        )
        recomputed = self._backward(activation="relu", needs=("x", "weight", "bias"))
        self._grads(recomputed, "relu", y=y)
        told = self._backward(activation="relu", y=y, needs=("x", "weight", "bias"))
        for a, b in zip(recomputed[:3], told[:3], strict=True):
            assert compare.same_bits(self.get(a), self.get(b)), "the sign computed again is not that of y"
        place = self.put(self.case.dy)
        dx = self._backward(activation="relu", needs=("x", "weight", "bias"), out=place).dx
        self._grads(recomputed._replace(dx=dx), "relu, in dy's place", y=y)

    def check_parts(self):
        """Halves of the batch, or of another axis."""
        c = self.case
        axis = next((a for a in range(c.x.ndim) if a != c.axis % c.x.ndim and c.x.shape[a] > 1), None)
        if axis is None:
            return
        cut = tuple(slice(None) for _ in range(axis))
        n = c.x.shape[axis] // 2
        halves = [(*cut, slice(None, n)), (*cut, slice(n, None))]
        parts = [(self.put(np.ascontiguousarray(c.dy[h])), self.put(np.ascontiguousarray(c.x[h]))) for h in halves]
        stats = bnkern.merge_stats([bnkern.batch_stats(x, axis=c.axis) for _, x in parts])
        vectors = {"weight": self.weight, "bias": self.bias}
        sums = sum(bnkern.backward_reduce(dy, x, stats, **vectors, axis=c.axis) for dy, x in parts)
        dx = [bnkern.backward_apply(dy, x, stats, sums, **vectors, axis=c.axis) for dy, x in parts]
        whole = np.concatenate([self.get(d) for d in dx], axis=axis)
        grads = bnkern.BatchNormGrads(self.put(whole), *map(self.put, map(self.get, reversed(sums))), None)
        self._grads(grads, "parts")

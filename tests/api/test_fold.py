"""fold_batch_norm against the convolution followed by batch norm, both written out in NumPy, in float64."""

import numpy as np
import pytest

import bnkern


def convolve(x, weight, bias, groups):
    """Cross-correlation of (N, Cin, W) with (Cout, Cin / groups, K), no padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=2)
    windows = np.stack(np.split(windows, groups, axis=1))  # (g, N, Cin/g, W', K)
    kernels = np.stack(np.split(weight, groups, axis=0))  # (g, Cout/g, Cin/g, K)
    y = np.concatenate(list(np.einsum("gncwk,gock->gnow", windows, kernels)), axis=1)
    return y if bias is None else y + bias[:, None]


def convolve_transposed(x, weight, bias, groups):
    """The adjoint: (N, Cin, W) with (Cin, Cout / groups, K) gives (N, Cout, W + K - 1)."""
    x, kernels = np.stack(np.split(x, groups, axis=1)), np.stack(np.split(weight, groups, axis=0))
    width, size = x.shape[-1], weight.shape[2]
    y = np.zeros((groups, x.shape[1], weight.shape[1], width + size - 1))
    for k in range(size):
        y[..., k : k + width] += np.einsum("gncw,gco->gnow", x, kernels[..., k])
    y = np.concatenate(list(y), axis=1)
    return y if bias is None else y + bias[:, None]


def linear(x, weight, bias, groups):
    return x @ weight.T + (0 if bias is None else bias)


# kind: the layer, the shape of x, the shape of the weight by groups, where the output channels are
LAYERS = {
    "linear": (linear, (4, 6), lambda g: (12, 6), 0),
    "conv": (convolve, (2, 6, 9), lambda g: (12, 6 // g, 3), 0),
    "transposed": (convolve_transposed, (2, 6, 9), lambda g: (6, 12 // g, 3), 1),
}
CASES = [("linear", 1), *((kind, g) for kind in ("conv", "transposed") for g in (1, 2, 3, 6))]


@pytest.mark.parametrize("affine", ["none", "weight", "bias", "both"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no-conv-bias", "conv-bias"])
@pytest.mark.parametrize(("kind", "groups"), CASES)
def test_folded_layer_equals_layer_then_batch_norm(kind, groups, with_bias, affine):
    layer, x_shape, weight_shape, out_axis = LAYERS[kind]
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(weight_shape(groups))
    b = rng.standard_normal(12) if with_bias else None
    mean, var, gamma, beta = rng.uniform(0.2, 2, (4, 12))
    gamma = gamma if affine in ("weight", "both") else None
    beta = beta if affine in ("bias", "both") else None
    kept = w.copy()

    folded = bnkern.fold_batch_norm(
        w, conv_bias=b, running_mean=mean, running_var=var, weight=gamma, bias=beta, out_axis=out_axis, groups=groups
    )
    want = bnkern.batch_norm_inference(
        layer(x, w, b, groups), running_mean=mean, running_var=var, weight=gamma, bias=beta
    )
    np.testing.assert_allclose(layer(x, *folded, groups), want, rtol=1e-12, atol=1e-12)  # sums of at most 36 terms
    assert np.array_equal(w, kept), "the layer's own weight stays"
    assert folded[0].shape == w.shape
    assert folded[1].shape == (12,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_the_layer_is_kept(dtype):
    w = np.ones((3, 2), dtype)
    folded = bnkern.fold_batch_norm(w, running_mean=np.zeros(3), running_var=np.ones(3))
    assert folded[0].dtype == folded[1].dtype == dtype


def test_eps_and_negative_out_axis():
    w = np.ones((2, 3))
    mean, var = np.array([1.0, 2, 3]), np.array([3.0, 8, 15])
    weight, bias = bnkern.fold_batch_norm(w, running_mean=mean, running_var=var, eps=1.0, out_axis=-1)
    np.testing.assert_allclose(weight, np.array([[1 / 2, 1 / 3, 1 / 4]] * 2), rtol=1e-15)
    np.testing.assert_allclose(bias, [-1 / 2, -2 / 3, -3 / 4], rtol=1e-15)

"""ONNX's BatchNormalization (opset 15): its own node test cases, and its reference implementation on more shapes.

ONNX's momentum weighs the old value, and its running variance takes the batch's biased: momentum=1 - m, correction=0.
"""

import warnings

import numpy as np
import pytest
from helpers.libraries import of_framework

import bnkern

onnx = of_framework("onnx")


def node_cases():
    with warnings.catch_warnings():  # collecting imports the cases of every operator, some of which overflow
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return collect_testcases("BatchNormalization")


def batch_normalization(x, scale, bias, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    """The operator on bnkern: y, or in training mode (y, running_mean, running_var)."""
    if not training_mode:
        return [
            bnkern.batch_norm_inference(x, running_mean=mean, running_var=var, weight=scale, bias=bias, eps=epsilon)
        ]
    y, stats = bnkern.batch_norm_train(x, weight=scale, bias=bias, eps=epsilon)
    return [y, *bnkern.update_running(stats, running_mean=mean, running_var=var, momentum=1 - momentum, correction=0)]


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # the tolerance of ONNX's own runner is 1e-3, 1e-7


def test_node_cases():
    """The four that ONNX has: inference and training mode, with the default and another epsilon."""
    found = node_cases()
    assert len(found) >= 4
    trained = 0
    for case in found:
        node = case.model.graph.node[0]
        assert case.model.opset_import[0].version >= 15
        trained += attributes(node).get("training_mode", 0)
        for inputs, outputs in case.data_sets:
            assert_same(batch_normalization(*inputs, **attributes(node)), outputs)
    assert trained >= 2


@pytest.mark.parametrize("momentum", [0.9, 0.0, 0.3])
@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 7), (3, 2, 4, 5), (2, 3, 2, 3, 4)], ids=str)
def test_reference_implementation(shape, training, momentum):
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(shape)
    names = ["x", "scale", "bias", "mean", "var"]
    arrays = [rng.standard_normal(shape, np.float32), *rng.random((4, shape[1]), np.float32)]
    outputs = ["y", "running_mean", "running_var"] if training else ["y"]
    how = {"epsilon": 1e-3, "momentum": momentum, "training_mode": training}
    node = onnx.helper.make_node("BatchNormalization", names, outputs, **how)
    value = onnx.helper.make_tensor_value_info
    kinds = [value(name, onnx.TensorProto.FLOAT, a.shape) for name, a in zip(names, arrays, strict=True)]
    results = [value(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = onnx.helper.make_graph([node], "one", kinds, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    want = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    assert_same(batch_normalization(*arrays, **how), want)

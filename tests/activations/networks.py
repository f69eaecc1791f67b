"""Small convolutional networks, each layer with enough inputs to gain."""

import numpy as np
import onnx

from tests.helpers.builders import info, model, node, normal

SIZE = 12


def conv(read: str, name: str, inputs: int, outputs: int, seed: int, weights: dict, kernel: int = 3, **attributes):
    """A convolution with a bias whose output is called like the layer; its constants go into `weights`."""
    groups = attributes.get("group", 1)
    shape = (outputs, inputs // groups, kernel, kernel)
    weights[f"{name}.weight"] = normal(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:])))
    weights[f"{name}.bias"] = 0.1 * normal(outputs, seed=seed + 100)
    return node("Conv", [read, f"{name}.weight", f"{name}.bias"], [name], pads=[kernel // 2] * 4, **attributes)


def closed(nodes, last: str, channels: int, weights: dict, *, opset: int = 17, **options) -> onnx.ModelProto:
    """x [N, 8, 12, 12] through nodes, then one more convolution, which stays float, and the mean of each channel: y."""
    nodes = [*nodes, conv(last, "head", channels, 8, 50, weights), node("GlobalAveragePool", ["head"], ["y"])]
    return model(nodes, [info("x", ["N", 8, SIZE, SIZE])], [info("y", ["N", 8, 1, 1])], weights, opset, **options)


def residual(opset: int = 17, **options) -> onnx.ModelProto:
    """Two convolutions with Relu, the second in a residual sum."""
    weights: dict[str, np.ndarray] = {}
    nodes = [
        conv("x", "a", 8, 16, 1, weights),
        node("Relu", ["a"], ["a.relu"]),
        conv("a.relu", "b", 16, 16, 2, weights, kernel=3),
        node("Add", ["b", "a.relu"], ["sum"]),
        node("Relu", ["sum"], ["sum.relu"]),
    ]
    return closed(nodes, "sum.relu", 16, weights, opset=opset, **options)


def samples(count: int = 16, seed: int = 3) -> np.ndarray:
    """Inputs of such networks."""
    return normal(count, 8, SIZE, SIZE, seed=seed)

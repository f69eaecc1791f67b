"""The paper's tables of operations, from its shapes and shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from onnxprune.layer_costs.costs import Costs
from onnxprune.layer_costs.flops import layers
from tests.helpers.builders import info, model, node
from tests.helpers.running import costs_of

FAR, TINY = 1e6, 1e-6  # such biases decide alone, with such weights, whether a neuron is active


def shown(number: float) -> str:
    """A count as the paper prints it."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= factor:
            value = number / factor
            return f"{value:.1f}B" if unit == "B" else f"{math.floor(value + 0.5)}{unit}"
    return f"{number / 1e3:.1f}K"


def percent(share: float | None) -> int:
    assert share is not None
    return round(100 * share)


# weight's shape, Weight % and Act % (to a digit more than printed where the printed FLOP % asks for it), pool, padding,
# stride, groups; a fraction of a channel that is active is active in that share of the samples
LENET_300 = [((300, 784), 8, 38.4), ((100, 300), 9.4, 65), ((10, 100), 26, 100)]
LENET_5 = [((20, 1, 5, 5), 66, 82), ((50, 20, 5, 5), 12, 72), ((500, 800), 8, 55), ((10, 500), 19, 100)]
ALEXNET = [
    ((96, 3, 11, 11), 84, 88), ((256, 48, 5, 5), 38, 52), ((384, 256, 3, 3), 35, 37), ((384, 192, 3, 3), 37, 39.6),
    ((256, 192, 3, 3), 36.6, 34), ((4096, 9216), 9, 36), ((4096, 4096), 9, 40), ((1000, 4096), 25, 100),
]  # fmt: skip
VGG_16 = [
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 512),
]  # fmt: skip


def network(
    layers: Sequence[tuple], inputs: Sequence[int], samples: int = 1, pools: dict[int, tuple[int, int]] | None = None,
    convs: dict[int, dict] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """Conv or Gemm, Relu, MaxPool of (kernel, stride): weights of exactly these shares, biases set what is active."""
    nodes, weights, value = [], {}, "x"
    for number, (shape, density, active) in enumerate(layers):
        size = math.prod(shape)
        flat = np.zeros(size, np.float32)
        flat[: round(density / 100 * size)] = TINY
        bias = np.full(shape[0], -FAR, np.float32)
        bias[shape[0] - int(active / 100 * shape[0]) :] = FAR
        if number == 0:  # of channel 0 a share of the samples is active, which go up by 1
            part = active / 100 * shape[0] % 1
            bias[0] = -TINY * math.prod(shape[1:]) * (samples * (1 - part) - 0.5)
        weights |= {f"w{number}": flat.reshape(shape), f"b{number}": bias}
        if len(shape) == 2 and value not in ("x", f"h{number - 1}"):
            nodes.append(node("Flatten", [value], [f"f{number}"]))
            value = f"f{number}"
        kind = {"transB": 1} if len(shape) == 2 else (convs or {}).get(number, {})
        operator = "Gemm" if len(shape) == 2 else "Conv"
        nodes.append(node(operator, [value, f"w{number}", f"b{number}"], [f"a{number}"], **kind))
        value = f"a{number}"
        if number < len(layers) - 1:
            nodes.append(node("Relu", [value], [f"h{number}"]))
            value = f"h{number}"
        if number in (pools or {}):
            kernel, stride = pools[number]
            nodes.append(
                node("MaxPool", [value], [f"p{number}"], kernel_shape=[kernel, kernel], strides=[stride, stride])
            )
            value = f"p{number}"
    return model(nodes, [info("x", ["N", *inputs])], [info(value, ["N", layers[-1][0][0]])], weights)


def steps(samples: int, shape: Sequence[int]) -> np.ndarray:
    """Sample k is k all over."""
    return np.broadcast_to(
        np.arange(samples, dtype=np.float32).reshape(-1, *[1] * len(shape)), (samples, *shape)
    ).copy()


def table(costs: Costs) -> list[tuple]:
    return [
        (
            shown(layer.parameters),
            shown(layer.flops),
            *map(percent, (layer.act_share, layer.weight_share, layer.flop_share)),
        )
        for layer in costs.layers
    ]


def sums(costs: Costs) -> tuple:
    total = costs.total
    shares = map(percent, (total.act_share, total.weight_share, total.flop_share))
    return (shown(total.parameters), shown(total.flops), *shares)


def test_lenet_300_100_as_the_paper_prints_it(tmp_path):
    costs = costs_of(network(LENET_300, [784], 10), tmp_path, x=steps(10, [784]))
    assert table(costs) == [("235K", "470K", 38, 8, 8), ("30K", "60K", 65, 9, 4), ("1K", "2K", 100, 26, 17)]
    assert sums(costs) == ("266K", "532K", 46, 8, 8)


def test_lenet_5_as_the_paper_prints_it(tmp_path):
    proto = network(LENET_5, [1, 28, 28], 10, {0: (2, 2), 1: (2, 2)})
    costs = costs_of(proto, tmp_path, x=steps(10, [1, 28, 28]))
    assert table(costs) == [
        ("0.5K", "576K", 82, 66, 66), ("25K", "3M", 72, 12, 10), ("400K", "800K", 55, 8, 6), ("5K", "10K", 100, 19, 10),
    ]  # fmt: skip
    assert costs.layers[1].flops == 3_200_000
    assert sums(costs) == ("431K", "5M", 77, 8, 16)
    assert costs.total.flops == 4_586_000


def test_alexnet_as_the_paper_prints_it(tmp_path):
    """But for conv4's 663K of 663,552 weights, and 1.5B operations where the rows' sum is 1.45B."""
    padded = {"pads": [1] * 4}
    convs = {0: {"strides": [4, 4]}, 1: {"pads": [2] * 4, "group": 2}, 2: padded, 3: padded | {"group": 2}}
    proto = network(ALEXNET, [3, 227, 227], 1, {0: (3, 2), 1: (3, 2), 4: (3, 2)}, convs | {4: convs[3]})
    costs = costs_of(proto, tmp_path, x=steps(1, [3, 227, 227]))
    assert table(costs) == [
        ("35K", "211M", 88, 84, 84), ("307K", "448M", 52, 38, 33), ("885K", "299M", 37, 35, 18),
        ("664K", "224M", 40, 37, 14), ("442K", "150M", 34, 37, 14), ("38M", "75M", 36, 9, 3), ("17M", "34M", 40, 9, 3),
        ("4M", "8M", 100, 25, 10),
    ]  # fmt: skip
    assert sums(costs) == ("61M", "1.4B", 54, 11, 30)


def test_vgg_16_does_as_many_operations_as_the_paper_prints(tmp_path):
    shapes = [(out, into, 3, 3) for out, into in VGG_16]
    proto = network([(s, 10, 50) for s in shapes], [3, 224, 224], 1, dict.fromkeys((1, 3, 6, 9, 12), (2, 2)),
                    {number: {"pads": [1] * 4} for number in range(13)})  # fmt: skip
    onnx.save(proto, tmp_path / "vgg.onnx")
    run = layers(tmp_path / "vgg.onnx", {"x": np.zeros((1, 3, 224, 224), np.float32)})
    convs = [layer.flops for layer in run if layer.kind == "Conv"]
    dense = 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    assert shown(sum(convs) + dense) == "30.9B"
    assert shown(sum(map(math.prod, shapes)) + dense // 2) == "138M"

"""Models that are made to be measured. The functions run in workers: they need numpy and onnx."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent.parent / "models"
CONNECTED = "fc-58.6M"  # what results call a model of the layers below
ALEXNET = (9216, 4096, 4096, 1000)  # its fully connected layers: 58.6 million weights
INLINE = 1 << 29  # weights whose fp32 is protobuf's 2 GB
_SMALL = (32, 64, 8)
_DAMAGED = (b"", b"hello" * 99, bytes(500))


def fully_connected(path: str, widths: Sequence[int] = ALEXNET, seed: int = 0, bias: float = 1.0) -> None:
    """Write a model of Gemm, Relu, Gemm ... with Gaussian weights and biases, opset 17.

    Args:
        path: the file.
        widths: from input to output.
        seed: of all numbers.
        bias: standard deviation of the biases.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for number, (columns, rows) in enumerate(pairwise(widths)):
        matrix = rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        biases = rng.standard_normal(rows, np.float32) * np.float32(bias)
        weights.append(numpy_helper.from_array(biases, f"b{number}"))
        made = f"y{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [made], f"fc{number}", transB=1))
        last = made
        if number < len(widths) - 2:
            last = f"h{number}"
            nodes.append(helper.make_node("Relu", [made], [last], f"relu{number}"))
    ends = [("x", widths[0]), (last, widths[-1])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])] for name, size in ends)
    graph = helper.make_graph(nodes, "fc", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def squares(path: str, layers: int, width: int) -> None:
    """Write a model of square MatMul layers: in one file where protobuf allows it, and flushed to the disk."""
    import onnx
    from make_large import make

    file = Path(path)
    make(file, layers, width)
    data = file.with_name(file.name + ".data")
    if layers * width * width < INLINE:
        onnx.save(onnx.load(file), file)
        data.unlink()
    for written in (file, data):
        if written.exists():
            with written.open("rb") as held:
                os.fsync(held.fileno())


def network(path: str, name: str) -> None:
    """Write a network of the onnx package with random weights (tools/fill_light.py)."""
    import onnx
    from fill_light import fill, light

    onnx.save(fill(onnx.load(light(name))), path)


def crowd(folder: str | Path, count: int, damaged: int) -> None:
    """Write so many small models in three folders, some of them damaged, each in another of four ways."""
    every = count // damaged
    for number in range(count):
        path = Path(folder, f"part{number % 3}", f"{number:03}.onnx")
        path.parent.mkdir(parents=True, exist_ok=True)
        fully_connected(str(path), _SMALL, number)
        if number % every == every // 2 and number // every < damaged:
            whole = path.read_bytes()
            path.write_bytes((whole[: len(whole) // 2], *_DAMAGED)[number // every % 4])

"""Write a model larger than memory, to measure on: square MatMul layers of Gaussian weights.

python tools/make_large.py OUT.onnx [--layers N] [--width N]

The weights go to OUT.onnx.data, 4 * layers * width * width bytes: 12.9 GB by default. They are
written in pieces of 16 MB, so that making the model takes little memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

PIECE = 1 << 22  # weights
POOL = 8  # pieces of random numbers, scaled anew for each use: 3 G fresh ones take a minute


def make(path: Path, layers: int, width: int) -> None:
    """Write the model to `path` and its weights to `path`.data: MatMul, Relu, MatMul ..., opset 17."""
    rng = np.random.default_rng(0)
    pool = [rng.standard_normal(PIECE, np.float32) for _ in range(POOL)]
    size = width * width
    data = path.with_name(path.name + ".data")
    nodes, weights, last = [], [], "x"
    with data.open("wb") as file:
        for layer in range(layers):
            tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", 4 * size)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            for at in range(0, size, PIECE):
                spread = np.float32(rng.uniform(0.5, 1.5) * width**-0.5)
                file.write(pool[rng.integers(POOL)][: size - at] * spread)
            nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"y{layer}"], f"fc{layer}"))
            last = f"y{layer}"
            if layer < layers - 1:
                nodes.append(helper.make_node("Relu", [last], [f"h{layer}"], f"relu{layer}"))
                last = f"h{layer}"
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", last))
    inputs, outputs = ([end] for end in ends)
    graph = helper.make_graph(nodes, "large", inputs, outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="default 12")
    parser.add_argument("--width", type=int, default=16384, metavar="N", help="rows and columns (default 16384)")
    options = parser.parse_args()
    make(options.out, options.layers, options.width)


if __name__ == "__main__":
    main()

"""Known networks with random weights: the light models of the onnx package, filled.

python tools/fill_light.py NETWORK OUT.onnx

The onnx wheel carries the topologies of known networks with every weight as a ConstantOfShape node,
so that the files are small. Here each becomes a random initializer of that shape, always the same:
networks to test structure, scale and timing on. Their outputs mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light(name: str) -> Path:
    """The file of a network: resnet50, squeezenet, bvlc_alexnet ..."""
    return LIGHT / f"light_{name}.onnx"


def fill(model: ModelProto, seed: int = 0) -> ModelProto:
    """The model with random initializers instead of ConstantOfShape nodes over constant shapes.

    A matrix or a kernel has variance 1 / inputs, so that activations stay in range through a
    deep network; a vector is positive, because it may be a variance. The model is changed in place
    and returned.
    """
    rng = np.random.default_rng(seed)
    graph = model.graph
    shapes = {i.name: i for i in graph.initializer}
    kept, spent = [], set()
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(d) for d in numpy_helper.to_array(shapes[node.input[0]]))
        fan_in = int(np.prod(shape[1:]))
        if len(shape) > 1:
            values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(1 / fan_in))
        else:
            values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        if model.ir_version < 4:  # where every initializer has to be an input
            graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape))
        spent.add(node.input[0])
    del graph.node[:]
    graph.node.extend(kept)
    spent -= {name for node in kept for name in node.input}
    for field in (graph.initializer, graph.input):
        left = [entry for entry in field if entry.name not in spent]
        del field[:]
        field.extend(left)
    return model


def main() -> None:
    """The command line."""
    names = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("light_*.onnx"))
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=names, metavar="NETWORK", help=", ".join(names))
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    options = parser.parse_args()
    onnx.save(fill(onnx.load(light(options.network))), options.out)


if __name__ == "__main__":
    main()

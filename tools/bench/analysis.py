"""Time of the analysis that `strip` begins with, over the number of nodes.

The models are chains of residual blocks (two 1x1 convolutions, a Relu and an Add each) and the
onnx package's ResNet-50 with random weights. The clock runs while channels are coupled and live
ones are found, not while Python imports and the model loads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import made
from .arguments import positive
from .processes import work
from .results import Results, Row, table

TOOL = "coupling and liveness"
NODES = (100, 1_000, 10_000)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--nodes", nargs="+", type=positive, default=NODES, metavar="N",
                        help="lengths of the chains (default 100 1000 10000)")  # fmt: skip


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Time the chains, then ResNet-50."""
    model = folder / "m.onnx"
    for nodes in options.nodes:
        print(f"chain of {nodes:,} nodes", file=sys.stderr)
        work(write_chain, model, nodes)
        found.rows.append(Row(f"chain of {nodes:,}", TOOL, **work(analysed, model)))
        yield
    work(made.network, model, "resnet50")
    found.rows.append(Row("ResNet-50", TOOL, **work(analysed, model)))
    yield


def analysed(model: str) -> dict[str, Any]:
    """The seconds of a `Row` of a model, and its facts. A small model goes first, for what is imported when used."""
    import onnx

    analyse(chain(NODES[0]))
    proto = onnx.load(model)
    return {"seconds": [analyse(proto)], "facts": {"nodes": len(proto.graph.node)}}


def analyse(proto: Any) -> float:
    """Seconds that the coupling and liveness of a model take."""
    from onnxprune.channels.coupling.coupling import couplings
    from onnxprune.channels.liveness import Liveness
    from onnxprune.model.model import Model

    opened = Model(proto)
    start = time.perf_counter()
    for coupling in couplings(opened):
        assert Liveness(coupling).dead is not None
    return time.perf_counter() - start


def write_chain(path: str, nodes: int) -> None:
    """Write a `chain`."""
    import onnx

    onnx.save(chain(nodes), path)


def chain(nodes: int) -> Any:
    """Residual blocks of two 1x1 convolutions, a Relu and an Add each."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    body, weights, last = [], [], "x"
    for block in range(nodes // 4):
        w = numpy_helper.from_array(rng.standard_normal((16, 16, 1, 1)).astype(np.float32), f"w{block}")
        weights.append(w)
        body += [
            helper.make_node("Conv", [last, w.name], [f"a{block}"]),
            helper.make_node("Relu", [f"a{block}"], [f"b{block}"]),
            helper.make_node("Conv", [f"b{block}", w.name], [f"c{block}"]),
            helper.make_node("Add", [f"c{block}", f"b{block}"], [f"d{block}"]),
        ]
        last = f"d{block}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 16, 8, 8]) for n in ("x", last)]
    graph = helper.make_graph(body, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shown(rows: Sequence[Row]) -> str:
    """A line for each model."""
    cells = (
        [row.model, f"{row.facts['nodes']:,}", f"{row.time:.2f}", f"{1e6 * row.time / row.facts['nodes']:.0f}"]
        for row in rows
    )
    return table(["model", "nodes", "analysis s", "microseconds a node"], cells)

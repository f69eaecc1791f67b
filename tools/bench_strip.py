"""Dead neurons and whole channels removed from real topologies: operations, latency, time of the analysis.

python tools/bench_strip.py [--models NAME ...] [--dead SHARE] [--channels SHARE] [--multiple N]
python tools/bench_strip.py --growth

`strip --channels` removes the least channels of each network of the onnx wheel (random weights) and of the models in
models/. Then a share of the channels of every Conv and Gemm of the networks is killed, half by zero inputs and half by
zero outputs, and `strip` removes them. Before and after run in turn on one thread, timed by the processor time of the
process, which other work on the machine moves little; ratios are medians.
--growth prints the time of the analysis for chains of 100, 1,000 and 10,000 nodes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import known_models
import numpy as np
import onnx
import onnxruntime as ort
from fill_light import fill, light
from onnx import TensorProto, helper, numpy_helper

_REPEATS = 3
NETWORKS = (
    "resnet50",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "squeezenet",
    "shufflenet",
    "vgg19",
    "bvlc_alexnet",
)


def kill(model: onnx.ModelProto, share: float, seed: int = 0) -> None:
    """Zero the incoming weights of some channels of each layer, and the outgoing ones of as many inputs."""
    rng = np.random.default_rng(seed)
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in tensors:
            continue
        tensor = tensors[node.input[1]]
        array = numpy_helper.to_array(tensor).copy()
        for axis in (0, 1):
            if array.shape[axis] > 4:
                places = rng.choice(array.shape[axis], int(share / 2 * array.shape[axis]), replace=False)
                array[(slice(None),) * axis + (places,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def compared(before: Path, after: Path, rounds: int) -> tuple[float, float, float]:
    """Milliseconds of one core before and after, and the median ratio of runs in turn."""
    from onnxprune.model import Model
    from onnxprune.runtime import open_session, run
    from onnxprune.synthesis import synthesise

    sessions = []
    for path in (before, after):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        sessions.append(open_session(path, options=options))
    feeds = synthesise(Model.load(before), sessions[0], 1)[0]
    pairs = []
    for _ in range(rounds + 1):
        pair = []
        for session in sessions:
            start = time.process_time()
            for _ in range(_REPEATS):
                run(session, feeds)
            pair.append(1000 * (time.process_time() - start) / _REPEATS)
        pairs.append(pair)
    one, two = (statistics.median(side) for side in zip(*pairs[1:], strict=True))
    return one, two, statistics.median(b / a for a, b in pairs[1:])


def row(name: str, what: str, source: Path, target: Path, given: argparse.Namespace, **options: Any) -> None:
    """Strip, time, print."""
    import onnxprune

    result = onnxprune.strip(source, target, samples=2, multiple=given.multiple, **options)
    onnx.checker.check_model(str(target), full_check=True)
    before, after, ratio = compared(source, target, given.rounds)
    work = f"{result.cost.flops['after'] / result.cost.flops['before']:.2f}" if result.cost is not None else "1"
    worst = max((o["relative_l2"] or 0.0 for o in result.deviation.outputs), default=float("nan"))
    parameters = result.parameters
    print(
        f"| {name} | {what} | {parameters['before'] / 1e6:.2f} -> {parameters['after'] / 1e6:.2f} M | {work} "
        f"| {before:.2f} -> {after:.2f} | {ratio:.2f} | {worst:.1e} |",
        flush=True,
    )


def analysis(model: onnx.ModelProto) -> float:
    """Seconds that the coupling and liveness of a model take."""
    from onnxprune.coupling import couplings
    from onnxprune.liveness import Liveness
    from onnxprune.model import Model

    opened = Model(model)
    start = time.perf_counter()
    for coupling in couplings(opened):
        assert Liveness(coupling).dead is not None
    return time.perf_counter() - start


def chain(nodes: int) -> onnx.ModelProto:
    """Residual blocks of two 1x1 convolutions, a Relu and an Add each."""
    rng = np.random.default_rng(0)
    made, weights, last = [], [], "x"
    for block in range(nodes // 4):
        w = numpy_helper.from_array(rng.standard_normal((16, 16, 1, 1)).astype(np.float32), f"w{block}")
        weights.append(w)
        made += [
            helper.make_node("Conv", [last, w.name], [f"a{block}"]),
            helper.make_node("Relu", [f"a{block}"], [f"b{block}"]),
            helper.make_node("Conv", [f"b{block}", w.name], [f"c{block}"]),
            helper.make_node("Add", [f"c{block}", f"b{block}"], [f"d{block}"]),
        ]
        last = f"d{block}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 16, 8, 8]) for n in ("x", last)]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=NETWORKS)
    parser.add_argument("--dead", type=float, default=0.3)
    parser.add_argument("--channels", type=float, default=0.3)
    parser.add_argument("--multiple", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.growth:
        print("| nodes | analysis s | microseconds a node |\n|---:|---:|---:|")
        for nodes in (100, 1_000, 10_000):
            seconds = analysis(chain(nodes))
            print(f"| {nodes:,} | {seconds:.2f} | {1e6 * seconds / nodes:.0f} |")
        print(f"\nResNet-50: {analysis(fill(onnx.load(light('resnet50')))):.2f} s")
        return
    print("| model | removed | parameters | operations | CPU ms | ratio | error |\n|---|---|---|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "m.onnx", Path(folder) / "o.onnx"
        for name in options.models:
            model = fill(onnx.load(light(name)))
            onnx.save(model, source)
            row(name, f"channels {options.channels:g}", source, target, options, channels=options.channels)
            kill(model, options.dead)
            onnx.save(model, source)
            row(name, "dead", source, target, options)
        for path in known_models.present():
            name = path.parent.name if path.stem == "model" else path.stem
            row(name, f"channels {options.channels:g}", path, target, options, channels=options.channels)


if __name__ == "__main__":
    main()

"""Known networks with random weights and random dead channels, and real ones that lose 30 % of their channels."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxprune
from onnxprune.model.model import Model
from onnxprune_passes import Channels, DeadNeurons
from tests.helpers.repository import fetched, filled, light, skip_if_it_draws
from tests.helpers.running import feeds_of, run

LIGHT = ("resnet50", "densenet121", "inception_v1", "inception_v2", "squeezenet", "shufflenet", "vgg19")
FETCHED = [pytest.param(path, id=name, marks=marks) for path, name, marks in fetched()]


def narrowed(name: str) -> ModelProto:
    """A light model with random weights; layers of 4096 units have 128, to keep this quick."""
    proto = light(name)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            sizes = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(sizes == 4096, 128, sizes), tensor.name))
    return filled(proto)


def kill(proto: ModelProto, share: float = 0.25, seed: int = 0) -> dict[str, list[int]]:
    """Zero some rows of every layer but the last: the same place of all groups; weight -> rows.

    What a dead channel emits goes to 0 or below by chance: the bias, and what a batch norm behind it adds.
    """
    rng = np.random.default_rng(seed)
    held = {t.name: t for t in proto.graph.initializer}

    def fill(name: str, rows: np.ndarray, number: float) -> None:
        array = numpy_helper.to_array(held[name]).copy()
        array[rows] = number
        held[name].CopyFrom(numpy_helper.from_array(array, name))

    layers = [n for n in proto.graph.node if n.op_type in ("Conv", "Gemm") and n.input[1] in held]
    norms = {n.input[0]: n for n in proto.graph.node if n.op_type == "BatchNormalization"}
    killed = {}
    for layer in layers[:-1]:
        groups = next((a.i for a in layer.attribute if a.name == "group"), 1)
        outputs, inputs = held[layer.input[1]].dims[:2]
        if groups > 1 and inputs == 1:
            continue
        places = rng.random(outputs // groups) < share
        places[rng.integers(len(places))] = False
        rows = np.flatnonzero(np.tile(places, groups))
        fill(layer.input[1], rows, 0)
        killed[layer.input[1]] = rows.tolist()
        if rng.random() < 0.7:
            if len(layer.input) > 2:
                fill(layer.input[2], rows, 0)
            if layer.output[0] in norms:
                fill(norms[layer.output[0]].input[2], rows, -9)
    return killed


def parameters(proto: ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in proto.graph.initializer)


@pytest.mark.parametrize("name", LIGHT)
def test_known_networks_compute_the_same_without_their_dead_channels(name, tmp_path):
    proto = narrowed(name)
    killed = kill(proto)
    opened = Model(ModelProto())
    opened.proto.CopyFrom(proto)
    change = DeadNeurons().run(opened)
    path = tmp_path / "out.onnx"
    opened.write(path)
    after = onnx.load(path)
    assert change.modified
    assert parameters(after) < parameters(proto)
    feeds = feeds_of(proto, batch=1)
    for a, b in zip(run(proto, feeds), run(after, feeds), strict=True):
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    onnx.checker.check_model(after, full_check=True)
    onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    gone = {r.name: set(r.indices) for r in change.removed if r.axis == 0 and r.name in killed}
    assert all(gone.get(weight, set()) <= set(rows) for weight, rows in killed.items()), "a living channel went"
    assert not DeadNeurons().run(opened).modified


@pytest.mark.parametrize("path", FETCHED)
def test_real_models_load_and_run_without_a_third_of_their_channels(path, tmp_path):
    out = tmp_path / "out.onnx"
    opened = onnxprune.load(path)
    before = opened.proto.graph.output
    names = [o.name for o in before]
    change = Channels(sparsity=0.3).run(opened)
    opened.save(out)
    after = onnx.load(out)
    onnx.checker.check_model(str(out), full_check=True)
    onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    assert [o.name for o in after.graph.output] == names
    assert change.modified == bool(change.removed)
    deviation = onnxprune.verify(path, out, samples=1)
    assert deviation.source == "synthetic", deviation.reason
    assert [o["name"] for o in deviation.outputs] == names


@pytest.mark.parametrize("path", FETCHED)
def test_real_models_compute_the_same_without_what_is_dead(path, tmp_path):
    skip_if_it_draws(onnxprune.load(path).proto)
    out = tmp_path / "out.onnx"
    onnxprune.transform(path, out, ["dead_neurons"], verify=False)
    deviation = onnxprune.verify(path, out, samples=2)
    assert deviation.outputs, deviation.reason
    for output in deviation.outputs:
        assert output["max_abs"] <= 1e-6 or output["relative_l2"] <= 1e-5, output  # probabilities near 0, and classes

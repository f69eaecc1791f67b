"""Encoded models that other tools renamed, inlined, or whose equal constants they made one: every weight is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnxruntime as ort
import pytest
from onnx import GraphProto

from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.scopes import Scope, scopes_of
from onnxprune_passes import Decode
from tests.helpers import builders
from tests.helpers.builders import MODELS
from tests.helpers.repository import DATA
from tests.helpers.running import feeds_of, load, run, serialise

FROZEN = DATA / "encoded-1"
FILES = sorted(file.stem for file in FROZEN.glob("*.onnx"))


def bodies(proto: onnx.ModelProto) -> Iterator[Scope]:
    return (scope for top in scopes_of(proto) for scope in top.inner())


def rename(proto: onnx.ModelProto, called: Callable[[str], str]) -> onnx.ModelProto:
    """Call values otherwise, the model's inputs and outputs aside."""
    public = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for scope in bodies(proto):
        public |= scope.inputs | scope.outputs
    for scope in bodies(proto):
        body = scope.body
        for node in body.node:
            for names in (node.input, node.output):
                names[:] = [name if name in public or not name else called(name) for name in names]
        for entry in (*body.value_info, *(body.initializer if isinstance(body, GraphProto) else ())):
            entry.name = entry.name if entry.name in public else called(entry.name)
        for sparse in body.sparse_initializer if isinstance(body, GraphProto) else ():
            sparse.values.name = called(sparse.values.name)
    return proto


def prefixed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """All names as onnx.compose.add_prefix makes them, also in functions, where it leaves them alone."""
    for scope in bodies(proto):
        for node in scope.body.node:
            node.name = node.name and f"net_{node.name}"
    return rename(proto, "net_{}".format)


def shared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Equal initializers of a body are one, as onnxoptimizer and onnxslim make them."""
    for scope in bodies(proto):
        if not isinstance(scope.body, GraphProto):
            continue
        first: dict[bytes, str] = {}
        same: dict[str, str] = {}
        for tensor in list(scope.body.initializer):
            key = onnx.TensorProto()
            key.CopyFrom(tensor)
            key.ClearField("name")
            kept = first.setdefault(key.SerializeToString(), tensor.name)
            if kept != tensor.name:
                same[tensor.name] = kept
                scope.body.initializer.remove(tensor)
        for node in scope.body.node:
            node.input[:] = [same.get(name, name) for name in node.input]
    return proto


def anonymous(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Parts that nothing tells any more, below marks that are there."""
    numbers: dict[str, str] = {}
    return rename(proto, lambda name: numbers.setdefault(name, f"v{len(numbers)}") if name.startswith("~") else name)


def unmarked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same without the marks."""
    for scope in bodies(proto):
        for node in scope.body.node:
            node.name = ""
    return anonymous(proto)


def weights(proto: onnx.ModelProto) -> tuple[dict[str, np.ndarray], onnx.ModelProto]:
    """The decoded tensors by name, and the model."""
    opened = Model.of_bytes(proto.SerializeToString())
    Decode().run(opened)
    assert not encoded_weights(opened)
    return {weight.name: weight.array(opened) for weight in find(opened)}, onnx.load_from_string(serialise(opened))


@pytest.mark.parametrize("change", [prefixed, shared, anonymous, unmarked])
@pytest.mark.parametrize("name", FILES)
def test_every_weight_is_decoded_bit_for_bit(name, change):
    expected, _ = weights(onnx.load(FROZEN / f"{name}.onnx"))
    changed = change(onnx.load(FROZEN / f"{name}.onnx"))
    found, decoded = weights(changed)
    bare = {key.replace("net_", ""): array for key, array in found.items()}
    for key, array in expected.items():
        if change is unmarked and key not in bare:
            continue  # a half of its own, which a Cast widens: nothing says that it was encoded
        now = bare[key] if np.array_equal(bare[key], array) else bare[key].T  # as the reader wants it
        assert now.dtype == array.dtype, key
        assert now.tobytes() == array.tobytes(), key
    onnx.checker.check_model(decoded)
    feeds, proto = feeds_of(changed), decoded.SerializeToString()
    for before, after in zip(run(changed.SerializeToString(), feeds), run(proto, feeds), strict=True):
        limit = 0.02 * float(np.abs(before).max())  # a kernel that reads integers rounds more
        np.testing.assert_allclose(after.astype(np.float64), before.astype(np.float64), rtol=0, atol=limit)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("table")])  # their ids' shape is folded
def test_what_a_runtime_folded_in_part_is_decoded(name, tmp_path):
    """ONNX Runtime's basic optimisation makes positions plain, and leaves integers in front of their kernel."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    ort.InferenceSession(FROZEN / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    opened, original = Model.load(tmp_path / "basic.onnx"), Model.load(FROZEN / f"{name}.onnx")
    for each in (opened, original):
        Decode().run(each)
    assert not encoded_weights(opened)
    feeds = feeds_of(original.proto)
    before, after = (run(onnx.load_from_string(each.to_bytes()), feeds) for each in (original, opened))
    for there, here in zip(before, after, strict=True):
        limit = 0.02 * float(np.abs(there).max())  # a kernel that reads integers may be in the file already
        np.testing.assert_allclose(here.astype(np.float64), there.astype(np.float64), rtol=0, atol=limit)


@pytest.mark.parametrize("name", [name for name in FILES if "fused" in name])
def test_a_prefixed_model_gets_its_gemms_and_relus_back(name):
    _, decoded = weights(prefixed(onnx.load(FROZEN / f"{name}.onnx")))
    assert [node.op_type for node in decoded.graph.node] == ["MatMul", "Gemm", "Relu"]


def test_merged_models_have_weights_of_their_own():
    part = onnx.load(FROZEN / "fused-flat-int8.onnx")
    first, second = onnx.compose.add_prefix(part, "a_"), onnx.compose.add_prefix(part, "b_")
    merged = onnx.compose.merge_models(first, second, io_map=[("a_y", "b_x")])
    opened = Model.of_bytes(merged.SerializeToString())
    assert {group.name for group in encoded_weights(opened)} == {"a_first", "a_second", "b_first", "b_second"}
    feeds = {"a_x": np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)}
    before = run(merged.SerializeToString(), feeds)[0]
    assert not any(weight.name.startswith("~") or "~" in weight.name for weight in find(opened))
    np.testing.assert_array_equal(run(serialise(opened), feeds)[0], before)
    Decode().run(opened)
    np.testing.assert_allclose(run(serialise(opened), feeds)[0], before, rtol=0.02, atol=0.02 * np.abs(before).max())


def test_an_inlined_function_keeps_its_weights():
    inlined = onnx.inliner.inline_local_functions(onnx.load(FROZEN / "function-bitmask-int85.onnx"))
    found, _ = weights(inlined)
    expected, _ = weights(onnx.load(FROZEN / "function-bitmask-int85.onnx"))
    arrays = sorted(array.tobytes() for array in expected.values())
    assert arrays == sorted(array.tobytes() for array in found.values())


@pytest.mark.parametrize("name", list(MODELS))
def test_models_without_encoded_weights_stay_as_they_are(name):
    opened = load(MODELS[name][0]())
    before = opened.to_bytes()
    change = Decode().run(opened)
    if not any(weight.store == "sparse" for weight in find(load(MODELS[name][0]()))):
        assert not change.modified
        assert opened.to_bytes() == before


def test_a_constant_that_an_exporter_assigned_parts_of_is_no_encoded_weight():
    """torch's `w[places] = values` on zeros, traced: nothing of ours, and nothing to decode."""
    held = {"size": np.array([512]), "places": np.arange(0, 512, 7), "shape": np.array([32, 16])}
    held["values"] = builders.normal(74)
    nodes = [
        builders.node("ConstantOfShape", ["size"], ["zeros"]),
        builders.node("ScatterElements", ["zeros", "places", "values"], ["flat"], axis=0),
        builders.node("Reshape", ["flat", "shape"], ["w"]),
        builders.node("MatMul", ["x", "w"], ["y"]),
    ]
    opened = load(builders.model(nodes, [builders.info("x", ["N", 32])], [builders.info("y", ["N", 16])], held))
    before = serialise(opened)
    assert not Decode().run(opened).modified
    assert serialise(opened) == before

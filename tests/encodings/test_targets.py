"""Files for a runtime hold nothing but what it reads right; the runtimes that are installed give the same outputs."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.encodings import GATHERED, GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.measured import releases
from onnxprune.encodings.targets import EVERY_FORM, Targets, readers_in
from onnxprune.errors import OptionError
from onnxprune_passes import Encode
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import load, run, serialise

VALUES = ["exact", "half", "shared:4", "int8", "int8:3", "int4", "auto"]


def network(opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """A convolution, a matrix product and a Gemm, with most entries at 0, for one image."""
    nodes = [
        node("Conv", ["x", "kernel"], ["c"]), node("Relu", ["c"], ["r"]), node("Flatten", ["r"], ["f"]),
        node("MatMul", ["f", "first"], ["h"]), node("Relu", ["h"], ["g"]),
        node("Gemm", ["g", "second", "bias"], ["y"], transB=1),
    ]  # fmt: skip
    weights = {
        "kernel": normal(16, 8, 3, 3), "first": normal(256, 96, seed=1), "second": normal(64, 96, seed=2),
        "bias": normal(64, seed=3),
    }  # fmt: skip
    for name in ("kernel", "first", "second"):
        weights[name][np.random.default_rng(4).random(weights[name].shape) < 0.8] = 0
    return model(nodes, [info("x", [1, 8, 6, 6])], [info("y", [1, 64])], weights, opset, ir_version)


def recurrent() -> onnx.ModelProto:
    weights = {"w": normal(1, 128, 32), "r": normal(1, 128, 32, seed=1)}
    for array in weights.values():
        array[np.random.default_rng(4).random(array.shape) < 0.9] = 0
    nodes = [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=32)]
    return model(nodes, [info("x", [5, 2, 32])], [info("y", [5, 1, 2, 32])], weights, 17)


def encoded(proto: onnx.ModelProto, **options):
    opened = load(proto)
    change = Encode(**options).run(opened)
    return opened, change


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("target", [*releases(), "any"])
def test_every_form_of_a_file_is_one_that_the_target_reads(tmp_path, target, values):
    allowed = Targets.of([target])
    for proto in (network(), network(21, 10), recurrent(), MODELS["if"][0](), MODELS["opset9"][0]()):
        opened, _ = encoded(proto, values=values, target=(target,), loss=0.2)
        groups = encoded_weights(opened)
        assert {group.encoding for group in groups} <= allowed.encodings
        assert allowed.integers or not any(group.fused for group in groups)
        (tmp_path / "m.onnx").write_bytes(serialise(opened))
        assert target == "any" or target in onnxprune.compat(tmp_path / "m.onnx").targets
        if target == "any":
            assert {*releases()} - {"litert", "ort-format"} <= {*onnxprune.compat(tmp_path / "m.onnx").targets}
        for group in groups:
            readers = readers_in(group.scope, group.value)
            assert allowed.allows(group.encoding, group.values, readers, group.fused), (group.name, target)


def test_what_is_left_out_is_said(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    text = call(
        "encode", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--values", "int8", "--target", "opencv"
    ).output
    assert "for opencv no use is made of bitmask, coo, gathered, integers in front of MatMul" in " ".join(text.split())
    call("encode", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--values", "int8")
    shown = " ".join(call("compat", tmp_path / "o.onnx").stdout.split())
    assert "mnn: other numbers for forms in this file, without an error" in shown
    assert "encode again with --target NAME" in shown


def test_a_release_decides_whether_kernels_read_integers():
    for spec, fused in (("onnxruntime", True), ("onnxruntime>=1.22", False), ("onnxruntime>=1.32", True)):
        opened, _ = encoded(network(), values="int8", target=(spec,))
        assert any(group.fused for group in encoded_weights(opened)) == fused
    assert Targets.of([]) == EVERY_FORM


@pytest.mark.parametrize(
    "spec", ["", "caffe", "onnxruntime>=1.14", "tract>=0.1", "any>=1", "mnn>=", "MNN", "opencv>=x"]
)
def test_a_target_that_was_not_measured_is_refused(spec):
    with pytest.raises(OptionError):
        Encode(target=(spec,))


def test_an_encoding_that_the_target_does_not_read_is_refused():
    with pytest.raises(OptionError, match="does not read the encoding 'bitmask'"):
        Encode(target=("opencv",), encoding="bitmask")


@given(st.lists(st.sampled_from(list(releases())), min_size=1, max_size=4), st.permutations(list(releases())))
def test_more_targets_never_allow_more(some, every):
    few, whole = Targets.of(some), Targets.of(every)
    assert whole.encodings <= few.encodings
    assert whole.good <= few.good
    assert few.integers or not whole.integers
    assert whole.good == Targets.of(["any", "litert", "ort-format"]).good


def test_a_form_that_is_wrong_in_front_of_one_layer_is_taken_in_front_of_none():
    for name, held in releases().items():
        for release in held:
            wrong = {key[:3] for key, words in release.words.items() if "wrong" in words}
            assert not {key[:3] for key in release.good} & wrong, (name, release.version)
            assert {key[:3] for key in release.wrong} == wrong


@cache
def pairs(values: str) -> list[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """A file of each encoding that `any` has, an input, and what onnxruntime gives for it."""
    x = normal(1, 8, 6, 6, seed=9)
    made = []
    for encoding in ("auto", "flat", "rows", "dense"):
        opened, _ = encoded(network(), values=values, encoding=encoding, target=("any",), loss=0.2)
        data = serialise(opened)
        made.append((encoding, data, x, run(data, {"x": x})[0]))
    return made


def assert_near(found: np.ndarray, expected: np.ndarray, encoding: str) -> None:
    limit = 1e-4 * float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=limit, err_msg=encoding)


@pytest.mark.parametrize("values", VALUES)
def test_opencv_gives_the_same_outputs(values, tmp_path):
    cv2 = pytest.importorskip("cv2")
    for encoding, data, x, expected in pairs(values):
        (tmp_path / "m.onnx").write_bytes(data)
        net = cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
        net.setInput(x)
        assert_near(net.forward(), expected, encoding)


@pytest.mark.parametrize("values", VALUES)
def test_tract_gives_the_same_outputs(values, tmp_path):
    tract = pytest.importorskip("tract")
    for encoding, data, x, expected in pairs(values):
        (tmp_path / "m.onnx").write_bytes(data)
        runnable = tract.onnx().load(str(tmp_path / "m.onnx")).into_model().into_runnable()
        assert_near(runnable.run([x])[0].to_numpy(), expected, encoding)


@pytest.mark.parametrize("values", VALUES)
def test_openvino_gives_the_same_outputs(values, tmp_path):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for encoding, data, x, expected in pairs(values):
        (tmp_path / "m.onnx").write_bytes(data)
        compiled = core.compile_model(
            core.read_model(str(tmp_path / "m.onnx")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        assert_near(compiled([x])[0], expected, encoding)


def test_every_encoding_has_a_runtime():
    assert {encoding for name in releases() for encoding in Targets.of([name]).encodings} == {
        *GRAPH,
        GATHERED.name,
        "coo",
    }


def test_what_was_seen_to_be_wrong_is_in_no_target():
    """The data say of MNN what made targets necessary."""
    (mnn,) = releases()["mnn"]
    assert {("bitmask", "exact", False, "MatMul"), ("flat", "half", False, "Conv")} <= mnn.wrong
    for name, measured in releases().items():
        assert not Targets.of([name]).good & measured[-1].wrong

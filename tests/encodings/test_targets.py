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
from tests.helpers.builders import MODELS, info, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.releases import TABLES_AT_LOAD
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
            assert {*releases()} - {"ort-format", "tvm"} <= {*onnxprune.compat(tmp_path / "m.onnx").targets}
        for group in groups:
            readers = readers_in(group.scope, group.value)
            assert allowed.allows(group.encoding, group.values, readers, group.fused), (group.name, target)


def test_what_is_left_out_is_said(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    text = call(
        "encode", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--values", "int8", "--target", "opencv"
    ).output
    assert "for opencv no use is made of bitmask, coo, integers in front of MatMul" in " ".join(text.split())
    call("encode", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--values", "int8")
    shown = " ".join(call("compat", tmp_path / "o.onnx").stdout.split())
    assert "mnn: other numbers for what is in this file, without an error" in shown
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
    assert whole.good == Targets.of(["any", "ort-format", "tvm"]).good


def test_a_form_that_is_wrong_in_front_of_one_layer_is_taken_in_front_of_none():
    for name, held in releases().items():
        for release in held:
            wrong = {key[:3] for key, words in release.words.items() if "wrong" in words}
            assert not {key[:3] for key in release.good} & wrong, (name, release.version)
            assert {key[:3] for key in release.wrong} == wrong


@cache
def pairs(values: str, target: str) -> list[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """A file of each encoding that a target has, an input, and what onnxruntime gives for it."""
    x = normal(1, 8, 6, 6, seed=9)
    made = []
    for encoding in ("auto", *sorted({*GRAPH} & Targets.of([target]).encodings)):
        opened, _ = encoded(network(), values=values, encoding=encoding, target=(target,), loss=0.2)
        data = serialise(opened)
        made.append((encoding, data, x, run(data, {"x": x})[0]))
    return made


def assert_near(found: np.ndarray, expected: np.ndarray, encoding: str) -> None:
    limit = 1e-4 * float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=limit, err_msg=encoding)


@pytest.mark.parametrize("values", VALUES)
def test_opencv_gives_the_same_outputs(values, tmp_path):
    cv2 = pytest.importorskip("cv2")
    for encoding, data, x, expected in pairs(values, "opencv"):
        (tmp_path / "m.onnx").write_bytes(data)
        net = cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
        net.setInput(x)
        assert_near(net.forward(), expected, encoding)


@pytest.mark.parametrize("values", VALUES)
def test_tract_gives_the_same_outputs(values, tmp_path):
    tract = pytest.importorskip("tract")
    for encoding, data, x, expected in pairs(values, "tract"):
        (tmp_path / "m.onnx").write_bytes(data)
        runnable = tract.onnx().load(str(tmp_path / "m.onnx")).into_model().into_runnable()
        assert_near(runnable.run([x])[0].to_numpy(), expected, encoding)


@pytest.mark.parametrize("values", VALUES)
def test_openvino_gives_the_same_outputs(values, tmp_path):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for encoding, data, x, expected in pairs(values, "openvino"):
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


def large(rows: int, columns: int, kind: str = "MatMul") -> onnx.ModelProto:
    """One large weight and its reader."""
    weights = {"w": normal(rows, columns)}
    inputs = [info("x", [1, rows])] if kind == "MatMul" else [info("x", [7], onnx.TensorProto.INT64)]
    nodes = [node(kind, ["x", "w"] if kind == "MatMul" else ["w", "x"], ["y"])]
    return model(nodes, inputs, [info("y", ["N", columns])], weights, 17)


def test_a_large_weight_is_judged_by_large_layers():
    """tract 0.23.9 computes what makes more than 2^20 entries at every run, whatever the value form."""
    tract = Targets.of(["tract"])
    for encoding, values in (("dense", "shared"), ("dense", "int4"), ("escape", "shared"), ("escape", "int2")):
        assert tract.allows(encoding, values, {"MatMul"}, entries=1 << 20)
        assert not tract.allows(encoding, values, {"MatMul"}, entries=(1 << 20) + 1)
    assert tract.allows("flat", "exact", {"MatMul"}, entries=1 << 24)
    assert Targets.of(["onnxruntime"]).allows("escape", "shared", {"Conv"}, entries=1 << 24)
    opencv = Targets.of(["opencv"])  # which packs a matrix behind nodes at every run, but no kernel
    assert opencv.allows("dense", "shared", {"MatMul"}, entries=1 << 19)
    assert not opencv.allows("dense", "shared", {"MatMul"}, entries=(1 << 19) + 1)
    assert not opencv.allows("dense", "shared", {"Conv", "Gemm"}, entries=(1 << 19) + 1)
    assert opencv.allows("dense", "shared", {"Conv"}, entries=(1 << 19) + 1)


def test_a_large_weight_stays_as_it_is_where_it_would_be_decoded_at_every_run(tmp_path):
    opened, change = encoded(large(1030, 1020), values="shared:5", target=("tract",))
    assert {group.values for group in encoded_weights(opened)} <= {"exact"}
    assert change.notes
    opened, _ = encoded(large(1020, 1020), values="shared:5", target=("tract",))
    assert [group.values for group in encoded_weights(opened)] == ["shared"]
    opened, _ = encoded(large(1030, 1020), values="shared:5")
    (tmp_path / "m.onnx").write_bytes(serialise(opened))
    assert "tract" not in onnxprune.compat(tmp_path / "m.onnx").targets


def test_what_is_decoded_beside_a_gather_is_decoded_beside_every_layer():
    """A slow product hides it: beside TVM's, planes took twice as long from 2^20 entries on alone."""
    (tvm,) = releases()["tvm"]
    assert "once" in tvm.words["escape", "shared", False, "MatMul"]
    assert not any(key[:2] == ("escape", "shared") for key in tvm.good)
    assert ("dense", "int8", False, "MatMul") in tvm.good


def test_a_runtime_that_folds_what_is_small_gets_codes_of_that():
    iree = Targets.of(["iree"])
    for readers in ({"MatMul"}, {"Gather"}):
        assert iree.allows("escape", "shared", readers, entries=1 << 19)
        assert not iree.allows("escape", "shared", readers, entries=(1 << 19) + 1)
        assert iree.allows("dense", "int8", readers, entries=1 << 24)


def test_a_compiler_that_decodes_at_load_gets_codes_of_any_size_and_is_told_how(tmp_path):
    (at_load,), (default,) = releases()["iree-at-load"], releases()["iree"]
    assert {key for key in default.good if not key[2]} < at_load.good
    assert Targets.of(["iree-at-load"]).allows("escape", "shared", {"MatMul"}, entries=1 << 24)
    told = "--iree-opt-const-eval=false --iree-opt-const-expr-max-size-increase-threshold="
    for target, words in (("iree-at-load>=3.13", told), ("iree", ""), ("any", "")):
        onnx.save(network(), tmp_path / "m.onnx")
        result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "small.onnx", target=[target], verify=False)
        notes = [note for note in result.notes if "--iree" in note]
        assert len(notes) == bool(words)
        assert words in "".join(notes)


def test_a_form_that_another_runtime_reads_as_integers_is_none_of_its_target():
    """OpenVINO rounds activations for integers behind Mul as for those of DequantizeLinear."""
    openvino = Targets.of(["openvino"])
    assert not openvino.allows("dense", "int8", {"Gemm"}, scaled=True)
    assert openvino.allows("dense", "int8", {"Conv"}, scaled=True)
    assert openvino.allows("flat", "exact", {"DequantizeLinear"})


@pytest.mark.parametrize("target", [name for name in releases() if name not in TABLES_AT_LOAD])
def test_a_large_table_is_decoded_row_by_row(target):
    opened, _ = encoded(large(4400, 256, "Gather"), values="shared:5", target=(target,))
    assert [group.encoding for group in encoded_weights(opened)] == ["gathered"]


def test_losses_are_those_of_forms_that_the_target_reads():
    """ORT format keeps integers of kernels alone: codebooks that are decoded at load must not be chosen for it."""
    sizes = (384, 1536, 384, 384)
    weights = {f"w{n}": normal(*sizes[n : n + 2], seed=n) for n in range(3)}
    nodes = [node("MatMul", ["x" if n == 0 else f"h{n}", f"w{n}"], ["y" if n == 2 else f"h{n + 1}"]) for n in range(3)]
    proto = model(nodes, [info("x", [1, 384])], [info("y", [1, 384])], weights, 17)
    for loss in (0.0005, 0.002, 0.01):
        opened, _ = encoded(proto, values="auto", target=("ort-format",), loss=loss)
        assert [group.fused for group in encoded_weights(opened)] == [True] * 3


def test_a_large_weight_becomes_a_grid_where_no_codebook_is_read():
    """TVM folds no codebook; half precision was all that was left for a weight of many entries."""
    opened, _ = encoded(large(640, 640), values="auto", target=("tvm",))
    assert [group.values for group in encoded_weights(opened)] == ["int8"]


def test_weights_of_which_nothing_smaller_is_read_are_said():
    nodes = [node("Conv", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", [1, 8, 6, 6])], [info("y", [1, 16, 4, 4])], {"w": normal(16, 8, 3, 3)}, 17)
    _, change = encoded(proto, values="auto", target=("ort-format",))
    assert any("1 weights of Conv stay exact" in note for note in change.notes)
    _, change = encoded(proto, values="auto", target=("tract",))
    assert not any("stay exact" in note for note in change.notes)


@pytest.mark.parametrize(("name", "halves"), [("litert", False), ("tract", True)])
def test_biases_are_halves_where_they_are_read_right(name, halves):
    proto = mlp((64, 400, 80))
    opened, _ = encoded(proto, values="auto", half_biases=True, target=(name,))
    stored = {group.name for group in encoded_weights(opened) if group.values == "half"}
    assert ("fc0.bias" in stored) == halves

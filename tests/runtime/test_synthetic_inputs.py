"""Inputs that are found for a model without samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import ToleranceMissed
from onnxprune.model.model import Model
from onnxprune.runtime.session import inputs_of, open_session, run
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise
from tests.helpers.arrays import samples
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import put

I64, BOOL = TensorProto.INT64, TensorProto.BOOL
Y = [info("y", None)]


def gather():
    nodes = [helper.make_node("Cast", ["ids"], ["i"], to=I64), helper.make_node("Gather", ["t", "i"], ["y"])]
    return model(nodes, [info("ids", ["batch", "seq"], TensorProto.INT32)], Y, {"t": samples(3, 4)})


def masked():
    nodes = [helper.make_node("Cast", ["attention_mask"], ["m"], to=1), helper.make_node("Div", ["x", "m"], ["y"])]
    return model(nodes, [info("x", ["N", 4]), info("attention_mask", ["N", 4], I64)], Y)


def equal():
    """The run fails unless some entry equals 7: the index is the number of such entries minus 1."""
    nodes = [
        helper.make_node("Equal", ["x", "seven"], ["e"]),
        helper.make_node("Cast", ["e"], ["n"], to=I64),
        helper.make_node("ReduceMax", ["n"], ["one"], keepdims=0),
        helper.make_node("Sub", ["one", "ones"], ["index"]),
        helper.make_node("Gather", ["t", "index"], ["y"]),
    ]
    weights = {"seven": np.array([7]), "ones": np.array(1), "t": samples(1, 4)}
    return model(nodes, [info("x", [3], I64)], Y, weights)


def switch():
    nodes = [helper.make_node("Where", ["c", "a", "b"], ["y"])]
    return model(nodes, [info("c", ["n"], BOOL), info("a", ["n"]), info("b", ["n"])], Y)


def windows():
    """Only lengths divisible by 320 can be reshaped."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return model(nodes, [info("x", ["batch", "length"])], Y, {"shape": np.array([-1, 320])})


@pytest.mark.parametrize("build", [gather, masked, equal, switch, windows, mlp])
def test_inputs_are_found(tmp_path, build):
    (tmp_path / "m.onnx").write_bytes(build().SerializeToString())
    session = open_session(tmp_path / "m.onnx")
    made, again = (synthesise(Model.load(tmp_path / "m.onnx"), session, 3).feeds for _ in range(2))
    assert len(made) == 3
    for one, other in zip(made, again, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
        assert np.isfinite(run(session, one)["y"]).all()
    assert {name: a.dtype for name, a in made[0].items()} == {i.name: np.dtype(i.dtype) for i in inputs_of(session)}


def impossible_file(folder):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("Add", ["r", "w"], ["y"])]
    proto = model(nodes, [info("x", [1, "odd"])], Y, {"s": np.array([11, 13]), "w": samples(11, 13)})
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_inputs_that_are_not_found(tmp_path):
    path = impossible_file(tmp_path)
    with pytest.raises(CannotSynthesise):
        synthesise(Model.load(path), open_session(path), 1)
    found = onnxprune.verify(path, path)
    assert found.source == "none"
    assert "--data" in found.reason
    with pytest.raises(ToleranceMissed, match="nothing was compared"):
        call("verify", path, path)
    with pytest.raises(ToleranceMissed, match="cannot be checked") as caught:
        onnxprune.transform(path, tmp_path / "o.onnx", ["encode"], tolerance=0.5)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "o.onnx").exists()


def test_a_model_that_an_optimiser_breaks(tmp_path):
    """See findings/onnxruntime_pads_other_axes_behind_a_transpose.sh: data would not help."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Pad", ["t", "sides", "", "axes"], ["p"]),
        node("Transpose", ["p"], ["y"], perm=[0, 3, 1, 2]),
    ]  # fmt: skip
    sides = {"sides": np.array([1, 1, 1, 1]), "axes": np.array([1, 2])}
    path = put(tmp_path / "m.onnx", model(nodes, [info("x", [1, 3, 8, 8])], Y, sides, opset=18))
    with pytest.raises(CannotSynthesise):
        synthesise(Model.load(path), open_session(path), 1)
    found = onnxprune.verify(path, path)
    assert "without ONNX Runtime's optimisation (ORT_DISABLE_ALL) it runs" in found.reason
    assert "--data" not in found.reason


def test_inputs_on_which_a_model_does_not_run_are_left_out(tmp_path):
    """A negative number is an index beyond the only row."""
    nodes = [
        helper.make_node("Less", ["x", "zero"], ["negative"]), helper.make_node("Cast", ["negative"], ["i"], to=I64),
        helper.make_node("Gather", ["t", "i"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", [1])], Y, {"zero": np.zeros(1, np.float32), "t": samples(1, 400)})
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    session = open_session(tmp_path / "m.onnx")
    made = synthesise(Model.load(tmp_path / "m.onnx"), session, 20)
    assert 3 < len(made.feeds) < 20
    assert all(feed["x"][0] >= 0 for feed in made.feeds)
    assert len(made.outputs) == len(made.feeds)
    found = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", samples=20).deviation
    assert (found.source, found.samples) == ("synthetic", len(made.feeds))


def test_an_input_without_a_numpy_type(tmp_path):
    proto = model([helper.make_node("Identity", ["x"], ["y"])], [info("x", [1], TensorProto.STRING)], Y)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert "string" in onnxprune.verify(tmp_path / "m.onnx", tmp_path / "m.onnx").reason


def product():
    """A width that no list of usual sizes has."""
    return model([node("MatMul", ["x", "w"], ["y"])], [info("x", ["a", "b"])], Y, {"w": samples(1575, 8)})


def transposed():
    return model([node("Gemm", ["x", "w"], ["y"], transB=1)], [info("x", ["a", "b"])], Y, {"w": samples(8, 333)})


def recurrence():
    weights = {"w": samples(1, 5, 236), "r": samples(1, 5, 5)}
    nodes = [node("Identity", ["x"], ["i"]), node("RNN", ["i", "w", "r"], ["y"], hidden_size=5)]
    return model(nodes, [info("x", ["steps", "n", "width"])], Y, weights)


def arithmetic():
    """Constants for the last two axes."""
    nodes = [node("Add", ["x", "row"], ["a"]), node("Reshape", ["a", "to"], ["y"])]
    return model(nodes, [info("x", ["t", "b", "c"])], Y, {"row": samples(79, 5), "to": np.array([-1, 79 * 5])})


def steps():
    """A convolution of five steps along the first axis."""
    nodes = [
        node("Transpose", ["x"], ["t"]), node("Unsqueeze", ["t", "zero"], ["u"]), node("Conv", ["u", "w"], ["y"])
    ]  # fmt: skip
    return model(nodes, [info("x", ["T", 24])], Y, {"w": samples(64, 24, 5), "zero": np.zeros(1, np.int64)})


@pytest.mark.parametrize(
    ("build", "shape"),
    [(product, (1, 1575)), (transposed, (1, 333)), (recurrence, (1, 64, 236)), (arithmetic, (1, 79, 5)),
     (steps, (64, 24))],
)  # fmt: skip
def test_sizes_are_those_that_the_weights_tell(tmp_path, build, shape):
    (tmp_path / "m.onnx").write_bytes(build().SerializeToString())
    found = synthesise(Model.load(tmp_path / "m.onnx"), open_session(tmp_path / "m.onnx"), 2)
    assert [array.shape for feed in found.feeds for array in feed.values()] == [shape] * 2
    assert onnxprune.verify(tmp_path / "m.onnx", tmp_path / "m.onnx").source == "synthetic"


def test_the_first_axis_of_images_counts_samples_however_it_is_called():
    """A model of one fixed size, made smaller than it is: no batch of many images is tried on it."""
    held = {"k": normal(4, 3, 3, 3), "w": normal(4 * 62 * 62, 5)}
    nodes = [node("Conv", ["x", "k"], ["h"]), node("Flatten", ["h"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    proto = model(nodes, [info("x", ["unk__7", 3, 32, 32])], [info("y", ["unk__7", 5])], held)
    seen = []

    def refuse(names, feeds):
        seen.append(feeds["x"].shape[0])
        raise RuntimeError("the product does not fit")

    given = SimpleNamespace(name="x", shape=["unk__7", 3, 32, 32], type="tensor(float)")
    with pytest.raises(CannotSynthesise):
        synthesise(Model(proto), SimpleNamespace(get_inputs=lambda: [given], get_outputs=list, run=refuse), 1)
    assert set(seen) == {1}


def test_what_a_session_records_beside_the_outputs_is_not_asked_for(tmp_path):
    proto = mlp()
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    opened = Model.load(tmp_path / "m.onnx")
    proto.graph.output.append(info("fc0", None))
    session = open_session(proto.SerializeToString())
    made = synthesise(opened, session, 3)
    assert [set(outputs) for outputs in made.outputs] == [{"y"}] * 3
    size = made.outputs[0]["y"].nbytes
    assert synthesise(opened, session, 3, held=3 * size).outputs is not None
    assert synthesise(opened, session, 3, held=3 * size - 1).outputs is None


def hiding(kind: str):
    """A mask of booleans that a product or a Softmax reads, as it is or turned round."""
    kept, turned = kind.split()
    nodes = [node("Not", ["m"], ["n"])] if turned == "turned" else [node("Identity", ["m"], ["n"])]
    nodes += {
        "product": [node("Cast", ["n"], ["f"], to=1), node("Mul", ["x", "f"], ["y"])],
        "never": [node("Where", ["n", "never", "x"], ["w"]), node("Softmax", ["w"], ["y"])],
        "else": [node("Where", ["n", "x", "never"], ["w"]), node("Softmax", ["w"], ["y"])],
        "sum": [node("Where", ["n", "never", "zero"], ["w"]), node("Add", ["w", "x"], ["y"])],
        "zero": [node("Where", ["n", "zero", "x"], ["y"])],
    }[kept]
    held = {"never": np.float32(-1e9), "zero": np.float32(0)}
    return model(nodes, [info("x", ["N", 4]), info("m", ["N", 4], BOOL)], Y, held)


@pytest.mark.parametrize("kept", ["product", "never", "else", "sum", "zero"])
@pytest.mark.parametrize("turned", ["as it is", "turned"])
def test_masks_of_padding_hide_nothing(tmp_path, kept, turned):
    source = put(tmp_path / "m.onnx", hiding(f"{kept} {turned.split()[0]}"))
    found = synthesise(Model.load(source), open_session(source), 2)
    padding = (kept in ("never", "sum", "zero")) != (turned == "turned")
    assert found.kinds["m"] == ("flags unset" if padding else "flags set")
    assert (found.feeds[0]["m"] != padding).all()
    assert len({outputs["y"].tobytes() for outputs in found.outputs}) == len(found.feeds)

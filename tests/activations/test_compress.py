"""`compress(activations="int8")`: judged, reported, and refused in a line where it does not pay."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import NoGain, OptionError
from onnxprune.layer_costs import gain
from tests.activations.networks import closed, conv, residual, samples
from tests.helpers.builders import mlp, node
from tests.helpers.running import put


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "x.npz", x=samples(32))
    return put(tmp_path / "m.onnx", residual()), tmp_path / "out.onnx", tmp_path / "x.npz"


@pytest.fixture
def timed(monkeypatch):
    """What the models take, whatever they take."""
    times = {"before": 2.0, "after": 1.0}
    monkeypatch.setattr(gain, "latencies", lambda before, after, data: times)
    return times


def compress(files, **options):
    model, out, data = files
    return onnxprune.compress(model, out, **{"activations": "int8", "data": data, **options})


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "saliency": "magnitude", "values": "int8"}], ids=str)
def test_the_result_says_what_computes_in_integers_and_is_judged(files, timed, options):
    result = compress(files, **options)
    assert result.activations == gain.Gain(["Conv_a", "Conv_b"], timed)
    assert result.facts()["activations"] == {"layers": ["Conv_a", "Conv_b"], "latency_ms": timed}
    assert any("2 convolutions compute with 8-bit integers: Conv_a, Conv_b" in note for note in result.notes)
    assert any(step.startswith("activations{data=") for step in result.passes)
    assert (result.promise is None) == bool(options)
    assert result.deviation.outputs[0]["sqnr_db"] > 8
    weights = {weight.name: weight for weight in result.weights}
    assert weights["b.weight"].bytes_after < 0.5 * weights["b.weight"].bytes_before
    if options:
        assert weights["b.weight"].zeros == round(0.5 * 16 * 16 * 9)


@pytest.mark.parametrize("form", ["int8", "half"])
def test_a_form_without_a_rule_goes_with_it(files, timed, form):
    result = compress(files, values=form)
    assert result.activations == gain.Gain(["Conv_a", "Conv_b"], timed)
    assert result.promise is not None


def test_the_same_bytes_whatever_the_times_are(files, timed):
    compress(files)
    first = files[1].read_bytes()
    timed["after"] = 1.9
    compress(files)
    assert files[1].read_bytes() == first


def test_the_file_is_inspected_verified_decoded_and_compressed_again(files, timed):
    compress(files, sparsity=0.5, saliency="magnitude", values="shared:4")
    model, out, data = files
    assert {"a.weight", "b.weight"} <= {weight["name"] for weight in onnxprune.inspect(out)}
    assert onnxprune.verify(model, out, data=data).outputs[0]["sqnr_db"] > 8
    assert onnxprune.compat(out).loads
    decoded = out.with_name("decoded.onnx")
    onnxprune.decode(out, decoded)
    assert "QuantizeLinear" in {each.op_type for each in onnx.load(decoded).graph.node}
    assert onnxprune.verify(out, decoded, data=data).outputs[0]["max_abs"] == 0
    again = onnxprune.compress(out, out.with_name("again.onnx"))
    assert again.output.bytes <= 1.1 * again.input.bytes


def test_a_search_takes_it_too(files, timed):
    result = compress(files, max_drop=0.2, metric="cosine")
    assert result.search is not None
    assert result.activations is not None


def test_a_result_that_is_no_faster_is_refused_and_nothing_is_written(files, timed):
    timed["after"] = 2.0
    with pytest.raises(NoGain, match=r"does not pay on this processor: 2 -> 2 ms a run, nothing written"):
        compress(files)
    assert not files[1].exists()


def depthwise() -> onnx.ModelProto:
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", 8, 8, 1, weights, group=8), node("Relu", ["a"], ["r"])]
    return closed(nodes, "r", 8, weights)


@pytest.mark.parametrize("make", [depthwise, lambda: mlp((8, 16, 4))], ids=["depthwise", "no convolution"])
def test_a_model_without_such_convolutions_is_refused(make, files):
    proto = make()
    put(files[0], proto)
    given = (
        samples(32)
        if proto.graph.input[0].type.tensor_type.shape.dim[1:][0].dim_value == 8
        and len(proto.graph.input[0].type.tensor_type.shape.dim) == 4
        else np.ones((32, 8), np.float32)
    )
    np.savez(files[2], x=given)
    with pytest.raises(NoGain, match="there is no 2-D convolution without groups"):
        compress(files)
    assert not files[1].exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": None}, "give data"),
        ({"target": "openvino"}, "for onnxruntime alone, and the target is openvino"),
        ({"target": ("onnxruntime>=1.25", "any")}, "the target is any"),
        ({"activations": "int4"}, "activations 'int4' is not float or int8"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(files, options, said):
    with pytest.raises(OptionError, match=said):
        compress(files, **options)


def test_latencies_are_of_both_models(files):
    found = gain.latencies(files[0], files[0], files[2])
    assert set(found) == {"before", "after"}
    assert all(taken > 0 for taken in found.values())

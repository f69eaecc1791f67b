"""Value forms in whole models: at every opset, wherever weights are kept, whatever they hold."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.values import form_of
from onnxprune.errors import OnnxPruneError, OptionError
from onnxprune.model.discovery import find
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import MODELS, info, matmul, mlp, model, node, normal
from tests.helpers.running import assert_same_bits, load, newest_opset, outputs, run, serialise

FORMS = ["half", *(f"shared:{b}" for b in range(2, 9)), "int8", *(f"int8:{b}" for b in range(2, 8)), "int4", "int2"]


every_form = pytest.mark.parametrize("values", FORMS)
OPSETS = [9, 10, 11, 13, 17, 21, newest_opset()]


SOME = ["half", "shared:2", "shared:6", "int8", "int8:4", "int4"]


@cache
def small(opset: int) -> onnx.ModelProto:
    return mlp((48, 96, 80, 16), opset=opset)


EVERYWHERE = [(v, o, "auto") for v in ("shared:3", "int8", "int8:3", "int4", "auto", "half") for o in OPSETS] + [
    (v, 21, e) for v in SOME for e in ("coo", *GRAPH)
]


@pytest.mark.parametrize(("values", "opset", "encoding"), EVERYWHERE)
def test_a_file_runs_at_every_opset_and_comes_back(opset, values, encoding):
    opened = load(small(opset))
    change = Encode(values=values, encoding=encoding).run(opened)
    data = serialise(opened)
    assert len(data) <= small(opset).ByteSize() + 64
    if values != "half":
        assert encoded_weights(opened) or change.notes
    stored = {p.name: p.array(opened) for p in encoded_weights(opened)}
    again = load(onnx.load_from_string(data))
    assert not Encode(values=values, encoding=encoding).run(again).modified
    repeated = load(small(opset))
    Encode(values=values, encoding=encoding).run(repeated)
    assert serialise(repeated) == data
    feeds = {"x": normal(5, 48, seed=4)}
    fast = run(data, feeds)[0]
    # DequantizeLinear 28 has no kernel in 1.32: it must fuse.
    got = run(data, feeds, optimised=False)[0] if opset <= 26 else fast
    Decode().run(opened)
    for weight in find(opened):
        if weight.name in stored:
            assert_same_bits(weight.array(opened), stored[weight.name])
    expected = run(serialise(opened), feeds, optimised=False)[0]
    size = np.linalg.norm(expected)
    assert np.linalg.norm(got - expected) <= (1e-5 if opset <= 26 else 0.02) * size
    assert np.linalg.norm(fast - expected) <= 0.02 * size


@pytest.mark.parametrize("values", ["half", "shared:3", "int8", "int8:3", "int4", "auto"])
def test_weights_wherever_models_keep_them(case, values):
    """No weight of these models is large enough for a kernel of its own: outputs are equal bit for bit."""
    opened = load(case[0])
    types = {w.name: (w.element, w.shape) for w in find(opened)}
    Encode(values=values).run(opened)
    data = serialise(opened)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    encoded = outputs(data)
    Decode().run(opened)
    assert {w.name: (w.element, w.shape) for w in find(opened)} == types
    assert outputs(serialise(opened)) == encoded


@every_form
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_exact_and_is_named(values, bad):
    array = normal(64, 32)
    array[3, 4] = bad
    opened = load(matmul(array))
    change = Encode(values=values).run(opened)
    assert any("'w' keeps exact values" in note for note in change.notes)
    assert not encoded_weights(opened)
    assert_same_bits(find(opened)[0].array(opened), array)


@pytest.mark.parametrize(("dtype", "size"), [
    (np.float32, 1e-6), (np.float32, 1e-9), (np.float32, 1e-42), (np.float64, 1e-60), (np.float64, 1e-300),
    (np.float64, 1e300), (np.float32, 1e30)
])  # fmt: skip
def test_weights_far_from_the_range_of_halves_stay_exact(dtype, size):
    array = (normal(64, 32, dtype=dtype) * dtype(size)).astype(dtype)
    opened = load(matmul(array, element=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    change = Encode(values="half").run(opened)
    assert "'w' keeps exact values: half cannot hold it" in change.notes
    assert_same_bits(find(opened)[0].array(opened), array)


def test_a_few_small_numbers_among_others_become_halves():
    array = normal(64, 32)
    array[:3] = 1e-9
    opened = load(matmul(array))
    Encode(values="half").run(opened)
    assert encoded_weights(opened)
    Decode().run(opened)
    np.testing.assert_array_equal(find(opened)[0].array(opened), array.astype(np.float16))


def test_what_is_not_finite_is_refused_or_exact_where_the_loss_decides():
    array = normal(64, 32)
    array[3, 4] = np.nan
    with pytest.raises(OnnxPruneError, match="'w' holds NaN"):
        Encode(values="auto").run(load(matmul(array)))
    opened = load(matmul(array))
    assert not Encode(values="auto", keep_zeros=True).run(opened).modified
    assert_same_bits(find(opened)[0].array(opened), array)


@pytest.mark.parametrize("values", [*FORMS, "auto"])
@pytest.mark.parametrize("shape", [(0,), (0, 32), (64, 0), (3, 0, 5), (), (1,)])
def test_tensors_with_nothing_to_gain_are_left_alone(values, shape):
    odd = np.zeros(shape, np.float32)
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Identity", ["odd"], ["z"])]
    held = {"w": normal(64, 32), "odd": odd}
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 32]), info("z", list(shape))], held)
    opened = load(proto)
    Encode(values=values).run(opened)
    assert "odd" in {t.name for t in opened.proto.graph.initializer}
    assert run(serialise(opened), {"x": normal(3, 64)})[1].shape == shape


@pytest.mark.parametrize("name", ["qdq", "qlinear", "asymmetric"])
@pytest.mark.parametrize("values", ["half", "int8", "int4", "int8:4"])
def test_integers_are_no_floats(name, values):
    proto = MODELS[name][0]()
    opened = load(proto)
    Encode(values=values).run(opened)
    assert outputs(serialise(opened)) == outputs(proto)


@pytest.mark.parametrize("name", ["qdq", "qlinear"])
@pytest.mark.parametrize("values", ["shared:3", "auto"])
def test_integers_take_fewer_of_their_values(name, values):
    opened = load(MODELS[name][0]())
    before = {w.name: (w.element, w.zero, w.array(opened).copy()) for w in find(opened) if w.zero is not None}
    Encode(values=values, keep_zeros=True, loss=0.05).run(opened)
    groups = encoded_weights(opened)
    assert groups
    Decode().run(opened)
    for weight in (w for w in find(opened) if w.name in before):
        element, zero, array = before[weight.name]
        after = weight.array(opened)
        assert weight.element == element
        if zero.ndim == 0:
            np.testing.assert_array_equal(after == zero, array == zero)
        if values == "shared:3" and weight.name in {g.name for g in groups}:
            assert len(np.unique(after)) <= 8


WRONG = (
    "shared:1 shared:9 shared:x shared: shared:-3 shared:4.0 int8:1 int8:9 int8:x int4:4 half:2 exact:2 x AUTO auto:4"
)


@pytest.mark.parametrize("spec", [*WRONG.split(), "shared: 4", ""])
def test_forms_that_do_not_exist(spec):
    with pytest.raises(OptionError) as caught:
        Encode(values=spec)
    assert spec in str(caught.value)
    with pytest.raises(OptionError):
        Encode(set=(f"w={spec}",))


@every_form
def test_a_form_is_what_it_prints(values):
    assert str(form_of(values)) == values
    assert form_of(str(form_of(values))) == form_of(values)
    assert form_of("int8:8") == form_of("int8")


def test_types_whose_product_is_refused_keep_their_bytes():
    element = TensorProto.FLOAT16
    opened = load(matmul(normal(64, 32, dtype=np.float16), element=element))
    Encode(values="shared:4").run(opened)
    group = encoded_weights(opened)[0]
    assert group.array(opened).dtype == np.float16
    assert group.element == element

"""Tables of which Gather reads rows: decoded row by row, the same bits as at once, and back to what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.allocation.rate_distortion import GRID
from onnxprune.encodings.graph import tables
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.measured import releases
from onnxprune.encodings.positions.gathered import row_layout
from onnxprune.model.discovery import find
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.releases import TABLES_AT_LOAD
from tests.helpers.running import load, run, serialise

FORMS = ["half", "shared:2", "shared:3", "shared:4", "shared:6", "shared:8", "int8", "int8:3", "int4", "auto"]
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Tables of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "MIN_ROWS", 1)
        patch.setattr(tables, "MIN_ELEMENTS", 1)
        yield


def table(rows: int = 400, width: int = 48, dtype=np.float32) -> np.ndarray:
    """Rows of all sizes; one of padding, one that was never trained."""
    found = normal(rows, width) * np.random.default_rng(1).uniform(0.1, 3, (rows, 1))
    found[0], found[-1] = 0, 1e-3 * normal(width, seed=2)
    return found.astype(dtype)


def network(
    weight: np.ndarray | None = None, ids: int = TensorProto.INT64, rank: int = 2, readers: int = 1, *,
    name: str = "w", constant: bool = False, opset: int = 17, **axis,
) -> onnx.ModelProto:  # fmt: skip
    """So many nodes that gather rows of one table."""
    weight = table() if weight is None else weight
    element = TYPES[weight.dtype.type]
    held = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(weight), name="held")
    nodes = [held] if constant else []
    for n in map(str, range(readers)):
        nodes += [
            helper.make_node("Gather", [name, f"i{n}"], [f"g{n}"], name=f"look:{n}", **axis),
            node("Neg", [f"g{n}"], [f"y{n}"]),
        ]
    inputs = [info(f"i{n}", [None] * rank, ids) for n in range(readers)]
    outputs = [info(f"y{n}", [*[None] * rank, weight.shape[1]], element) for n in range(readers)]
    return model(nodes, inputs, outputs, {} if constant else {name: weight}, opset)


def encoded(proto: onnx.ModelProto, **options):
    opened = load(proto)
    Encode(**options).run(opened)
    return opened


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without values."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    held = [a.t for each in bare.graph.node for a in each.attribute if a.HasField("t")]
    for tensor in (*bare.graph.initializer, *held):
        tensor.raw_data = b""
    return bare


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(FORMS), st.integers(20, 300), st.integers(1, 70), st.sampled_from(list(TYPES)),
    st.sampled_from([TensorProto.INT32, TensorProto.INT64]), st.integers(0, 3), st.integers(1, 2),
    st.sampled_from([{}, {"axis": 0}, {"axis": -2}]), st.booleans(), st.integers(0, 3),
    st.sampled_from([11, 13, 17, 21]),
)  # fmt: skip
def test_rows_are_the_same_bits_as_those_of_the_decoded_table(
    values, rows, width, dtype, ids, rank, readers, axis, constant, size, opset
):
    proto = network(table(rows, width, dtype), ids, rank, readers, constant=constant, opset=opset, **axis)
    opened = encoded(proto, values=values, loss=0.1)
    data = serialise(opened)
    Decode().run(opened)
    assert skeleton(onnx.load_from_string(serialise(opened))) == skeleton(proto)
    rng = np.random.default_rng(size)
    kind = helper.tensor_dtype_to_np_dtype(ids)
    feeds = {f"i{n}": rng.integers(-rows, rows, (size,) * rank).astype(kind) for n in range(readers)}
    expected = run(serialise(opened), feeds)
    assert_same(run(data, feeds), expected)
    assert_same(run(data, feeds, optimised=False), expected)


@pytest.mark.parametrize("values", FORMS)
def test_every_form_gathers_what_is_packed(values):
    proto = network(readers=2)
    opened = encoded(proto, values=values, encoding="gathered", loss=0.1)
    (group,) = encoded_weights(opened)
    assert (group.encoding, group.name, group.gathered, group.intact) == ("gathered", "w", True, True)
    gathers = [each for each in opened.proto.graph.node if each.name.startswith("look")]
    held = {t.name: t for t in opened.proto.graph.initializer}
    assert [each.name for each in gathers] == ["look:0", "look:1"]
    assert values == "half" or all(held[each.input[0]].data_type in (2, 3, 4) for each in gathers)
    onnx.checker.check_model(serialise(opened), full_check=True)
    before = sum(t.ByteSize() for t in proto.graph.initializer)
    assert group.nbytes(opened) < (0.6 if values == "half" else 0.4) * before


def test_each_row_has_its_scale():
    weight = table()
    opened = encoded(network(weight), values="int8")
    (group,) = encoded_weights(opened)
    error = np.abs(group.array(opened) - weight).max(axis=1)
    assert (error <= np.abs(weight).max(axis=1) / 250).all()
    assert not group.array(opened)[0].any()


def test_another_encode_keeps_every_bit():
    opened = encoded(network(readers=2), values="shared:4")
    first = serialise(opened)
    Decode().run(opened)
    Encode(values="shared:4").run(opened)
    assert serialise(opened) == first


def tied() -> onnx.ModelProto:
    """A table that a product reads too."""
    nodes = [node("Gather", ["w", "i"], ["g"]), node("MatMul", ["g", "t"], ["y"]), node("Transpose", ["w"], ["t"])]
    return model([nodes[0], nodes[2], nodes[1]], [info("i", ["N"], TensorProto.INT64)], [info("y", ["N", 400])],
                 {"w": table()})  # fmt: skip


def inner() -> onnx.ModelProto:
    """Another axis."""
    return network(axis=1)


@pytest.mark.parametrize(("proto", "options"), [
    (tied(), {}), (inner(), {}), (network(), {"encoding": "dense"}),
    *((network(), {"target": (name,)}) for name in ("any", *TABLES_AT_LOAD)),
], ids=lambda each: str(each) if isinstance(each, dict) else "")  # fmt: skip
def test_what_cannot_be_read_row_by_row_is_not(proto, options):
    opened = encoded(proto, **{"values": "shared:4", **options})
    assert not any(group.gathered for group in encoded_weights(opened))


@pytest.mark.parametrize("name", [name for name in releases() if name not in TABLES_AT_LOAD])
def test_targets_that_were_timed_with_tables_read_them_row_by_row(name):
    (group,) = encoded_weights(encoded(network(), values="shared:4", target=(name,)))
    assert group.gathered


def test_a_tied_table_says_why(tmp_path):
    onnx.save(tied(), tmp_path / "m.onnx")
    (row,) = onnxprune.inspect(tmp_path / "m.onnx")
    assert "also read as embedding" in row["left_alone"]


def test_small_tables_and_those_of_few_rows_are_decoded_at_load(monkeypatch):
    monkeypatch.setattr(tables, "MIN_ROWS", 401)
    assert not encoded_weights(encoded(network(), values="int8"))[0].gathered
    monkeypatch.setattr(tables, "MIN_ROWS", 400)
    assert encoded_weights(encoded(network(), values="int8"))[0].gathered
    monkeypatch.setattr(tables, "MIN_ELEMENTS", 400 * 48 + 1)
    assert not encoded_weights(encoded(network(), values="int8"))[0].gathered


@pytest.mark.parametrize("constant", [False, True])
def test_names_with_prefixes_are_found(constant):
    opened = encoded(network(name="a:b", constant=constant, readers=2), values="int4")
    (before,) = (group.array(opened) for group in encoded_weights(opened))
    merged = onnx.compose.add_prefix(onnx.load_from_string(serialise(opened)), "net/")
    renamed = Model.of_bytes(merged.SerializeToString())
    (group,) = encoded_weights(renamed)
    assert group.name == "net/a:b"
    np.testing.assert_array_equal(group.array(renamed), before)
    Decode().run(renamed)
    assert [weight.name for weight in find(renamed)] == ["net/a:b"]
    assert not constant or renamed.proto.graph.node[0].name == "net/held"


def test_parts_that_others_share_are_computed_by_the_runtime():
    """Equal constants are one, as onnxoptimizer and onnxslim make them."""
    opened = encoded(network(), values="shared:4")
    (before,) = (group.array(opened) for group in encoded_weights(opened))
    proto = onnx.load_from_string(serialise(opened))
    powers = next(t for t in proto.graph.initializer if t.name.endswith(".powers"))
    for each in proto.graph.node:
        each.input[:] = ["common" if name == powers.name else name for name in each.input]
    powers.name = "common"
    changed = load(proto)
    (group,) = encoded_weights(changed)
    assert not group.intact
    np.testing.assert_array_equal(group.array(changed), before)
    Decode().run(changed)
    np.testing.assert_array_equal(find(changed)[0].array(changed), before)


def twice() -> onnx.ModelProto:
    """The same rows as two outputs."""
    nodes = [node("Gather", ["w", "i"], [name]) for name in "yz"]
    return model(nodes, [info("i", ["N"], TensorProto.INT64)], [info(name, ["N", 48]) for name in "yz"], {"w": table()})


def saved_by_the_runtime(data: bytes, folder: Path) -> bytes:
    """Constants folded and equal nodes made one, by ONNX Runtime's own optimiser."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return (folder / "optimised.onnx").read_bytes()


@pytest.mark.parametrize("values", ["shared:4", "half", "int8", "int4"])
def test_what_the_runtime_optimised_is_decoded(values, tmp_path):
    data = serialise(encoded(twice(), values=values))
    saved = saved_by_the_runtime(data, tmp_path)
    ids = {"i": np.arange(-400, 400)}
    gathers = [each for each in onnx.load_from_string(saved).graph.node if each.input[1:] == ["i"]]
    assert len({each.input[0] for each in gathers}) == len(gathers)  # one has read the table for both
    opened = Model.of_bytes(saved)
    Decode().run(opened)
    assert [weight.name for weight in find(opened)] == ["w"]
    assert [each.op_type for each in opened.proto.graph.node] == ["Gather", "Gather"]
    assert_same(run(serialise(opened), ids), run(data, ids))


def test_a_name_that_a_merged_model_brings_is_kept_for_it():
    first = onnx.load_from_string(serialise(encoded(network(rank=1), values="shared:4")))
    product = model([node("MatMul", ["x", "w"], ["z"])], [info("x", [None, 48])], [info("z", [None, 3])],
                    {"w": normal(48, 3)})  # fmt: skip
    merged = onnx.compose.merge_models(first, product, io_map=[("y0", "x")])
    opened = load(merged)
    Decode().run(opened)
    assert sorted(weight.name for weight in find(opened)) == ["w", "w_1"]
    feeds = {"i0": np.arange(400)}
    assert_same(run(serialise(opened), feeds), run(merged, feeds))


def test_notes_of_a_constant_come_back_whichever_reader_is_left():
    proto = network(constant=True, readers=2)
    proto.graph.node[0].doc_string = "words"
    for gone in ([], ["y0"], ["y1"]):
        opened = load(onnx.load_from_string(serialise(encoded(proto, values="shared:4"))))
        graph = opened.proto.graph
        for name in gone:
            last = next(each for each in graph.node if each.output[0] == f"g{name[1:]}")
            graph.node.remove(next(each for each in graph.node if each.output[0] == name))
            graph.node.remove(last)
            del graph.output[int(name[1:])]
        Decode().run(opened)
        assert [each.doc_string for each in graph.node if each.op_type == "Constant"] == ["words"]


def test_a_table_of_zeros_takes_what_skips_them(monkeypatch):
    weight = table(4000)
    weight[np.abs(weight) < np.quantile(np.abs(weight), 0.95)] = 0
    sizes = []
    for least in (1, weight.size + 1):
        monkeypatch.setattr(tables, "MIN_ELEMENTS", least)
        (group,) = encoded_weights(opened := encoded(network(weight), values="auto"))
        assert not group.gathered
        sizes.append(group.nbytes(opened))
    assert sizes[0] <= sizes[1]


def test_rows_of_nearly_nothing_stay_as_they_were_coded():
    weight = table()
    weight[5:50] *= 1e-38
    opened = encoded(network(weight), values="int4")
    first = serialise(opened)
    Decode().run(opened)
    Encode(values="int4").run(opened)
    assert serialise(opened) == first


@given(st.text(min_size=1, max_size=9), st.text(max_size=5), st.integers(0, 3))
def test_a_mark_holds_any_name(name, constant, reader):
    mark = Mark("gathered", "int4", ".c", "FLOAT", "~7", constant, name)
    assert Mark.parse(str(mark)) == mark
    assert Mark.parse(str(mark.of_reader(reader))) == mark.of_reader(reader)


@given(st.sampled_from([levels for levels, _ in GRID]), st.integers(1, 5000), st.integers(1, 300))
def test_a_codebook_of_words_is_small_beside_its_table(levels, rows, width):
    layout = row_layout(levels, rows, width)
    assert levels**layout.digits <= 1 << 16
    assert layout.digits == 1 or levels**layout.digits * layout.digits <= max(rows * width // 4, 256)


def test_a_run_is_timed_and_says_what_it_decodes(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    result = onnxprune.encode(tmp_path / "m.onnx", tmp_path / "e.onnx", values="shared:4")
    seen = result.deviation.decoding
    assert (seen.gathered, seen.folded, seen.each_run, seen.fused) == (["w"], [], [], [])
    assert set(seen.latency_ms) == {"before", "after"}
    (form,) = onnxprune.compat(tmp_path / "e.onnx").forms
    assert form.form == "gathered shared"

"""Which runtimes read a model: the table against the encodings."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.encodings import FORMS, GRAPH
from onnxprune.encodings.compatibility import (
    OPENVINO,
    RELEASES,
    FormCompatibility,
    Support,
    compatibility,
    newest,
    release_of,
    support,
)
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Encode
from tests.helpers.builders import conv_net, info, lstm, matmul, mlp, model, node, normal
from tests.helpers.releases import FOLDED, FUSED, HELD, OPSETS, STORED, number
from tests.helpers.running import load

KNOWN = [name for name, _, _ in RELEASES]


def pruned(*shape: int, density: float = 0.1, seed: int = 0) -> np.ndarray:
    keep = np.random.default_rng(seed).random(shape) < density
    return np.where(keep, normal(*shape, seed=seed), np.float32(0))


def product(density: float = 0.1, **kw) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, [info("x", ["N", 128])], [info("y", ["N", 96])], {"w": pruned(128, 96, density=density)}, **kw)


def forms(proto: onnx.ModelProto, **options) -> list[FormCompatibility]:
    opened = load(proto)
    Encode(**options).run(opened)
    return compatibility(opened).forms


def test_every_form_is_in_the_table():
    assert OPSETS.keys() == {(encoding, values) for encoding in GRAPH for values in FORMS}


@pytest.mark.parametrize(("encoding", "values"), OPSETS)
def test_what_a_form_needs(encoding, values):
    assert support(encoding, values) == Support(OPSETS[encoding, values], *FOLDED)
    if values in FUSED:
        assert support(encoding, values, fused=True) == Support(*FUSED[values])
    if values in STORED:
        assert support(encoding, values, fused=True, stored=True) == Support(*STORED[values])


@pytest.mark.parametrize(("encoding", "values"), [form for form in HELD if form != ("dense", "exact")])
def test_a_model_reports_the_form_that_is_in_it(encoding, values, tmp_path):
    """IR version 10 and opset 21 need release 1.18 by themselves."""
    opened = load(product(opset=21, ir_version=10))
    np.savez(tmp_path / "d.npz", x=normal(8, 128))
    Encode(encoding=encoding, values=values, data=str(tmp_path / "d.npz")).run(opened)
    (group,) = encoded_weights(opened)
    (form,) = compatibility(opened).forms
    assert (group.encoding, group.values) == (encoding, values)
    expected = {
        "exact": (encoding, OPSETS[encoding, values], "1.18", "1.18"),
        "int8": (f"{encoding} int8 for MatMul", 13, "1.18", "1.25"),
        "int8-dynamic": (f"{encoding} int8-dynamic for MatMul", 11, "1.18", "1.25"),
        "int4": (f"{encoding} int4 for MatMul", 21, "1.20" if encoding == "dense" else "1.23", "1.25"),
    }
    if (encoding, values) == ("dense", "int2"):
        expected["int2"] = ("dense int2 for MatMul", 25, "1.24", "1.29")
    expected = expected.get(values, (f"{encoding} {values}", OPSETS[encoding, values], "1.18", "1.18"))
    assert (form.form, form.opset, form.loads, form.fast) == expected
    assert form.weights == 1


def test_forms_are_grouped_and_counted():
    found = forms(mlp((96, 96, 96, 96)), values="int8", set=("fc1*=shared:4",), encoding="dense")
    assert [(f.form, f.weights) for f in found] == [("dense int8 for MatMul", 2), ("dense shared", 1)]


def test_a_weight_that_cannot_fuse_folds():
    (form,) = {f.form: f for f in forms(conv_net(), values="int8", encoding="dense")}.values()
    assert (form.form, form.fast) == ("dense int8", "1.15")


def test_a_model_without_encoded_weights():
    facts = compatibility(load(matmul()))
    assert (facts.opset, facts.ir_version, facts.loads, facts.fast, facts.forms) == (17, 8, "1.15", "1.15", [])


def openvino(proto: onnx.ModelProto, **options) -> set[str]:
    return {form.openvino for form in forms(proto, **options)}


def test_what_openvino_takes():
    sparse = lstm()
    for tensor in sparse.graph.initializer[:2]:
        tensor.CopyFrom(onnx.numpy_helper.from_array(pruned(*tensor.dims), tensor.name))
    assert openvino(product(), encoding="coo") == {"no"}
    assert openvino(product(opset=17), encoding="bitmask") == {"no"}
    assert openvino(product(opset=10), encoding="bitmask") == {"loads"}
    assert openvino(product(), encoding="flat") == {"loads"}
    assert openvino(sparse, encoding="flat", skip=("B",)) == {"no"}
    assert openvino(product(0.9), encoding="dense", values="half") == {"loads"}
    assert openvino(product(0.9), encoding="dense", values="int8") == {"loads"}
    assert openvino(product(0.9, opset=21, ir_version=10), encoding="dense", values="int4") == {"loads"}
    assert {answer for answer, _ in OPENVINO.values()} == {"no", "loads"}


@pytest.mark.parametrize(
    ("opset", "ir_version", "release"),
    [(9, 3, "1.15"), (19, 9, "1.15"), (20, 9, "1.17"), (17, 10, "1.18"), (21, 8, "1.18"), (24, 10, "1.24"),
     (28, 14, "1.32"), (99, 8, None), (17, 99, None)],
)  # fmt: skip
def test_the_release_that_reads_a_version(opset, ir_version, release):
    assert release_of(opset, ir_version) == release


def test_releases_are_compared_as_numbers():
    assert [number(name) for name in KNOWN] == sorted(number(name) for name in KNOWN)
    assert newest("1.9", "1.15", "1.2") == "1.15"
    assert newest("1.32", None) is None

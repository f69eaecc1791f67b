"""Retrained weights in: zeros and values make the round trip through files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import onnxprune
from onnxprune.errors import CheckpointError, MaskError
from onnxprune.masks.alignment import weights_of
from onnxprune.model.model import Model
from onnxprune_passes import Update
from tests.helpers.builders import conv_net, info, mlp, model, node, normal, qdq
from tests.helpers.running import initializers, load, put, serialise
from tests.masks.weights import SIZES, renamed, values


@pytest.mark.parametrize("options", [{"masks": "k.safetensors"}, {"names_from": "c.safetensors"},
                                     {"masks": "k.safetensors", "names_from": "c.safetensors"}])  # fmt: skip
@pytest.mark.parametrize("start", ["m.onnx", "p.onnx"])
def test_update(masked, mlp_files, options, start):
    result = onnxprune.update(start, "r.safetensors", "u.onnx", **options)
    updated, masks = values("u.onnx"), onnxprune.read_masks("k.safetensors").masks
    for i in range(2):
        expected = mlp_files[1][f"dense{i}/kernel"] * (masks[f"dense{i}/kernel"] if "masks" in options else 1)
        np.testing.assert_array_equal(updated[f"fc{i}.weight"], expected.T)
        np.testing.assert_array_equal(updated[f"fc{i}.bias"], mlp_files[1][f"dense{i}/bias"])
    assert len(result.notes) == (2 if "masks" in options else 0)
    if "masks" in options:
        assert result.notes[0].startswith("'fc0.weight': 1,843 masked entries were not zero in r.safetensors")
        assert onnxprune.check_masks("u.onnx", "k.safetensors")


def test_update_of_an_encoded_model(masked, mlp_files):
    options = {"strip": False, "masks": "k.npz", "names_from": "c.safetensors"}
    onnxprune.compress("m.onnx", "e.onnx", sparsity=0.9, values="shared:4", **options)
    onnxprune.update("e.onnx", "r.safetensors", "u.onnx", masks="k.npz")
    np.testing.assert_array_equal(values("u.onnx")["fc0.bias"], mlp_files[1]["dense0/bias"])


def test_update_from_a_re_exported_model(masked):
    put(masked / "again.onnx", renamed(mlp(SIZES, seed=5)))
    onnxprune.update("p.onnx", "again.onnx", "u.onnx", masks="k.safetensors")
    updated, masks = values("u.onnx"), onnxprune.read_masks("k.safetensors").masks
    again = initializers(mlp(SIZES, seed=5))
    np.testing.assert_array_equal(updated["fc0.weight"], again["fc0.weight"] * masks["dense0/kernel"].T)
    np.testing.assert_array_equal(updated["fc1.bias"], again["fc1.bias"])
    put(masked / "other.onnx", conv_net())
    with pytest.raises(MaskError, match=r"other\.onnx"):
        onnxprune.update("p.onnx", "other.onnx", "x.onnx")
    put(masked / "q.onnx", qdq())
    with pytest.raises(CheckpointError, match="'w' is int8"):
        onnxprune.update("q.onnx", "q.onnx", "x.onnx")


def test_update_twice_changes_nothing(masked):
    onnxprune.update("m.onnx", "r.safetensors", "u.onnx", masks="k.safetensors")
    opened = Model.load("u.onnx")
    before = serialise(opened)
    assert not Update(source="r.safetensors", masks="k.safetensors").run(opened).modified
    assert serialise(opened) == before


FAULTS = {
    "missing": ({"dense1/bias": None}, r"lacks the parameter 'dense1/bias'"),
    "shape": ({"dense1/bias": np.zeros(17, np.float32)}, r"'dense1/bias' is \[17\], not \[16\]"),
    "transposed": ({"dense0/kernel": np.zeros((64, 32), np.float32)}, r"'dense0/kernel' is \[64, 32\]"),
    "NaN": ({"dense0/kernel": np.full((32, 64), np.nan, np.float32)}, "'dense0/kernel'.*NaN"),
    "Inf": ({"dense0/bias": np.full(64, np.inf)}, "'dense0/bias'.*Inf"),
    "too large": ({"dense0/bias": np.full(64, 1e300)}, r"'fc0\.bias' do not fit into float32"),
    "integers": ({"dense0/bias": np.ones(64, np.int64)}, "'dense0/bias'.*int64"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("given", ["masks", "names_from"])
def test_a_checkpoint_that_does_not_fit(masked, mlp_files, fault, given):
    change, message = FAULTS[fault]
    arrays = {n: a for n, a in (mlp_files[1] | change).items() if a is not None}
    save_file(arrays, "bad.safetensors")
    options = {given: "k.safetensors" if given == "masks" else "c.safetensors"}
    with pytest.raises(CheckpointError, match=message):
        onnxprune.update("p.onnx", "bad.safetensors", "u.onnx", **options)
    assert not (masked / "u.onnx").exists()


def test_a_tied_parameter_that_came_apart(folder):
    table = normal(50, 32)
    nodes = [node("Gather", ["e", "i"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    inputs, outputs = [info("i", ["N"], onnx.TensorProto.INT64)], [info("y", ["N", 50])]
    put(folder / "t.onnx", model(nodes, inputs, outputs, {"e": table, "w": np.ascontiguousarray(table.T)}))
    save_file({"embed": table, "head": table.copy()}, "c.safetensors")
    save_file({"embed": table + 1, "head": table + 1}, "r.safetensors")
    save_file({"embed": table, "head": table + 1}, "apart.safetensors")
    save_file({"head": table + 2}, "alias.safetensors")
    onnxprune.update("t.onnx", "r.safetensors", "u.onnx", names_from="c.safetensors")
    np.testing.assert_array_equal(values("u.onnx")["w"], table.T + 1)
    np.testing.assert_array_equal(values("u.onnx")["e"], table + 1)
    onnxprune.update("t.onnx", "alias.safetensors", "u.onnx", names_from="c.safetensors")
    np.testing.assert_array_equal(values("u.onnx")["e"], table + 2)
    with pytest.raises(CheckpointError, match="'embed' and 'head' were one parameter"):
        onnxprune.update("t.onnx", "apart.safetensors", "x.onnx", names_from="c.safetensors")


def test_weights_are_listed_as_they_are_read(folder):
    again = load(renamed(mlp(SIZES)))
    assert [(w.kind, w.shape) for w in weights_of(again)] == [(w.kind, w.shape) for w in weights_of(load(mlp(SIZES)))]
    assert [w.name for w in weights_of(again)] == ["onnx::0", "onnx::1", "onnx::2", "onnx::3"]

"""Mask files that prune and export write: which weights, under which names, in which shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import onnxprune
from onnxprune.errors import CheckpointError, MaskError
from onnxprune.masks.apply import take, to_file
from onnxprune.masks.matching import match
from onnxprune.masks.matching.link import Link, Pruning
from onnxprune_passes import Magnitude
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load
from tests.masks.weights import values

ANY_FILE = Path(__file__)  # whose digest stands for a source model's


def test_prune_writes_what_it_pruned(mlp_files):
    result = onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors", names_from="c.safetensors")
    masks = onnxprune.read_masks("k.safetensors")
    assert result.notes == []
    assert set(masks.masks) == {"dense0/kernel", "dense1/kernel"}
    assert set(masks.parameters) == set(mlp_files[0])
    pruned = values("p.onnx")
    for i in range(2):
        np.testing.assert_array_equal(masks.masks[f"dense{i}/kernel"], pruned[f"fc{i}.weight"].T != 0)
        entry = masks.facts()["parameters"][f"dense{i}/kernel"]
        assert entry["mask"]["rule"] == "magnitude{sparsity=0.9}"
        assert entry["mask"]["requested"] == 0.9
        assert entry["mask"]["reached"] == round(0.9 * pruned[f"fc{i}.weight"].size) / pruned[f"fc{i}.weight"].size
        kept = np.abs(pruned[f"fc{i}.weight"][pruned[f"fc{i}.weight"] != 0])
        gone = np.abs(mlp_files[0][f"dense{i}/kernel"].T[pruned[f"fc{i}.weight"] == 0])
        assert gone.max() <= entry["mask"]["threshold"] <= kept.min()
        assert masks.parameters[f"dense{i}/kernel"].links == (Link(f"fc{i}.weight", order=(1, 0)),)


def test_without_names_the_masks_are_the_weights(mlp_files):
    onnxprune.compress("m.onnx", "p.onnx", sparsity=0.8, strip=False, masks="k.npz")
    masks = onnxprune.read_masks("k.npz")
    onnxprune.decode("p.onnx", "d.onnx")
    assert {n: m.tolist() for n, m in masks.masks.items()} == {
        n: (a != 0).tolist() for n, a in values("d.onnx").items() if "weight" in n
    }


@pytest.mark.parametrize("form", ["exact", "shared:4", "int8"])
def test_export_finds_the_same_masks(mlp_files, form):
    names_from = {"names_from": "c.safetensors"}
    onnxprune.prune("m.onnx", "q.onnx", sparsity=0.9, masks="k.safetensors", **names_from)
    onnxprune.encode("q.onnx", "p.onnx", values=form)
    said = onnxprune.read_masks("k.safetensors")
    file, notes = onnxprune.export_masks("p.onnx", "e.npz", original="m.onnx", **names_from)
    assert notes == []
    assert set(file.masks) == set(said.masks)
    assert all(np.array_equal(file.masks[n], said.masks[n]) for n in said.masks)
    pruning = file.parameters["dense0/kernel"].pruning
    assert pruning.threshold == pytest.approx(said.parameters["dense0/kernel"].pruning.threshold, rel=0.1)
    assert "magnitude{sparsity=0.9}" in pruning.rule
    file, notes = onnxprune.export_masks("p.onnx", "e.npz", **names_from)
    if form == "exact":
        assert notes == []
        assert all(np.array_equal(file.masks[n], said.masks[n]) for n in said.masks)
    else:
        assert set(file.masks) == {"fc0.weight", "fc1.weight"}
        assert "--original" in notes[-1]


def test_the_same_run_writes_the_same_masks(mlp_files, folder):
    for name in ("a", "b"):
        onnxprune.prune("m.onnx", f"{name}.onnx", sparsity=0.9, masks=f"{name}.npz", names_from="c.safetensors")
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


def test_what_is_not_matched_keeps_its_onnx_name(mlp_files):
    save_file({"dense0/kernel": mlp_files[0]["dense0/kernel"]}, "half.safetensors")
    result = onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors", names_from="half.safetensors")
    assert result.notes == ["the mask of 'fc1.weight' keeps its ONNX name: no parameter holds its values"]
    assert set(onnxprune.read_masks("k.safetensors").masks) == {"dense0/kernel", "fc1.weight"}


def test_a_name_that_is_another_parameter(mlp_files):
    save_file({"fc1.weight": mlp_files[0]["dense0/kernel"]}, "crossed.safetensors")
    with pytest.raises(MaskError, match=r"'fc1\.weight' was not matched"):
        onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors", names_from="crossed.safetensors")


def test_names_without_a_pass_that_decodes(mlp_files):
    onnxprune.transform("m.onnx", "p.onnx", ["magnitude{sparsity=0.9}"], masks="k.npz", names_from="c.safetensors")
    assert set(onnxprune.read_masks("k.npz").masks) == {"dense0/kernel", "dense1/kernel"}


def test_an_update_says_what_it_leaves(mlp_files):
    save_file({"dense0/kernel": mlp_files[0]["dense0/kernel"]}, "half.safetensors")
    result = onnxprune.update("m.onnx", "r.safetensors", "u.onnx", names_from="half.safetensors")
    assert result.notes == [f"'{n}' stays as it was: no parameter holds its values" for n in
                            ("fc0.bias", "fc1.weight", "fc1.bias")]  # fmt: skip


def test_a_weight_that_an_update_leaves_is_masked_all_the_same(mlp_files):
    onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors")
    save_file({"dense0/kernel": mlp_files[0]["dense0/kernel"]}, "half.safetensors")
    onnxprune.update("m.onnx", "r.safetensors", "u.onnx", masks="k.safetensors", names_from="half.safetensors")
    assert len(onnxprune.check_masks("u.onnx", "k.safetensors")) == 2


def test_a_tied_weight_keeps_what_any_of_its_uses_keeps():
    """The head is pruned, the embedding is left alone: the network has one parameter for both."""
    table = normal(50, 32)
    nodes = [node("Gather", ["e", "i"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    inputs, outputs = [info("i", ["N"], onnx.TensorProto.INT64)], [info("y", ["N", 50])]
    opened = load(model(nodes, inputs, outputs, {"e": table, "w": np.ascontiguousarray(table.T)}))
    matches = match.match(opened, {"embed": table, "head": table})
    assert matches.parameters["embed"].aliases == ("head",)
    Magnitude(sparsity=0.9).run(opened)
    file, notes = to_file(take(opened, {"w": Pruning()}), ANY_FILE, matches)
    assert file.masks == {}
    assert notes == ["'embed' gets no mask: 'w' is pruned, and other weights that hold it are not"]
    Magnitude(set=("e=0.5",)).run(opened)
    file, notes = to_file(take(opened, {"w": Pruning(), "e": Pruning()}), ANY_FILE, matches)
    assert notes == []
    assert np.count_nonzero(file.masks["embed"]) == 800  # the embedding keeps half, and the head a part of that


def test_masks_have_the_shapes_from_before_channels_left(mlp_files, folder):
    """Removed first by norm and then because they are dead: both are pruned in the masks, and listed."""
    options = {"sparsity": 0.97, "channels": 0.25, "masks": "k.safetensors", "names_from": "c.safetensors"}
    result = onnxprune.compress("m.onnx", "p.onnx", values="exact", **options)
    assert result.removed
    file = onnxprune.read_masks("k.safetensors")
    removed = {w.name: dict(w.removed) for w in file.weights}
    assert {(r.name, r.axis): tuple(r.indices) for r in result.removed} == {
        (name, axis): indices for name, axes in removed.items() for axis, indices in axes.items()
    }
    assert len(removed["fc0.weight"][0]) >= 16
    assert file.masks["dense0/kernel"].shape == (32, 64)
    assert not file.masks["dense1/kernel"][list(removed["fc1.weight"][1])].all()
    assert len(onnxprune.check_masks("p.onnx", "k.safetensors")) >= 2
    onnxprune.update("m.onnx", "r.safetensors", "u.onnx", masks="k.safetensors")
    assert onnxprune.check_masks("u.onnx", "k.safetensors")
    onnxprune.decode("p.onnx", "d.onnx")
    with pytest.raises(CheckpointError, match=r"channels of 'fc\d\.\w+' were removed"):
        onnxprune.update("d.onnx", "r.safetensors", "x.onnx", masks="k.safetensors")

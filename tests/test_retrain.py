"""Masks out, retrained weights in: zeros and values make the round trip through files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import onnxprune
from onnxprune.errors import CheckpointError, MaskError, OptionError, OutputError, ToleranceMissed
from onnxprune.masks import file as mask_files
from onnxprune.masks.alignment import weights_of
from onnxprune.masks.apply import take, to_file
from onnxprune.masks.matching import match
from onnxprune.masks.matching.link import Link, Pruning
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune_passes import ApplyMasks, Magnitude, Update
from tests.helpers.builders import conv_net, info, mlp, model, node, normal, qdq, qlinear
from tests.helpers.running import initializers, load, put, serialise

SIZES = (32, 64, 16)
ANY_FILE = Path(__file__)  # whose digest stands for a source model's


def values(path) -> dict[str, np.ndarray]:
    opened = Model.load(path)
    return {w.name: w.array(opened).copy() for w in find(opened)}


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model as another exporter would name it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    table = {t.name: f"onnx::{i}" for i, t in enumerate(copy.graph.initializer)}
    for tensor in copy.graph.initializer:
        tensor.name = table[tensor.name]
    for each in copy.graph.node:
        each.input[:] = [table.get(n, n) for n in each.input]
    order = sorted(copy.graph.initializer, key=lambda t: t.name, reverse=True)  # and in another order
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in order]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mlp_files(folder):
    """m.onnx, its checkpoint c.safetensors in a framework's names and orientation, and a retrained one, r."""
    proto = mlp(SIZES)
    put(folder / "m.onnx", proto)
    arrays = initializers(proto)
    before = {}
    for i in range(2):
        before[f"dense{i}/kernel"] = np.ascontiguousarray(arrays[f"fc{i}.weight"].T)
        before[f"dense{i}/bias"] = arrays[f"fc{i}.bias"]
    save_file(before, folder / "c.safetensors")
    after = {n: a + normal(*a.shape, seed=9) for n, a in before.items()}
    save_file(after, folder / "r.safetensors")
    return before, after


# out -------------------------------------------------------------------------------------------------


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


# onto models -----------------------------------------------------------------------------------------


@pytest.fixture
def masked(mlp_files, folder):
    onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors", names_from="c.safetensors")
    return folder


def test_apply_is_prune_again(masked):
    onnxprune.apply_masks("m.onnx", "k.safetensors", "a.onnx")
    assert {n: a.tolist() for n, a in values("a.onnx").items()} == {n: a.tolist() for n, a in values("p.onnx").items()}
    assert onnxprune.check_masks("a.onnx", "k.safetensors") == {"fc0.weight": 1843, "fc1.weight": 922}
    opened = Model.load("a.onnx")
    before = serialise(opened)
    assert not ApplyMasks(masks="k.safetensors").run(opened).modified
    assert serialise(opened) == before


def test_check_names_what_did_not_survive(masked):
    with pytest.raises(ToleranceMissed, match=r"'fc0\.weight' 1,843 of 1,843, 'fc1\.weight' 922 of 922") as caught:
        onnxprune.check_masks("m.onnx", "k.safetensors")
    assert caught.value.exit_code == 3


def test_check_reads_encoded_models(masked):
    onnxprune.encode("p.onnx", "e.onnx")
    assert len(onnxprune.check_masks("e.onnx", "k.safetensors")) == 2


def test_a_re_exported_model_is_matched_by_structure(masked):
    put(masked / "again.onnx", renamed(mlp(SIZES, seed=5)))
    onnxprune.apply_masks("again.onnx", "k.safetensors", "a.onnx")
    assert onnxprune.check_masks("a.onnx", "k.safetensors") == {"onnx::0": 1843, "onnx::2": 922}


def test_a_model_of_another_structure_is_matched_by_value(masked):
    """x @ w instead of Gemm, the layers of equal shape, one more in front."""
    weights = {"a": normal(32, 32), "b": mlp_arrays()["fc0.weight"].T.copy(), "c": mlp_arrays()["fc1.weight"].T.copy()}
    nodes = [node("MatMul", ["x", "a"], ["1"]), node("MatMul", ["1", "b"], ["2"]), node("MatMul", ["2", "c"], ["y"])]
    put(masked / "other.onnx", model(nodes, [info("x", ["N", 32])], [info("y", ["N", 16])], weights))
    with pytest.raises(MaskError, match=r"no weight 'fc0\.weight'"):
        onnxprune.apply_masks("other.onnx", "k.safetensors", "a.onnx")
    onnxprune.apply_masks("other.onnx", "k.safetensors", "a.onnx", names_from="c.safetensors")
    np.testing.assert_array_equal(values("a.onnx")["b"], values("p.onnx")["fc0.weight"].T)


def mlp_arrays():
    return initializers(mlp(SIZES))


@pytest.mark.parametrize("sizes", [(32, 65, 16), (32, 64, 16, 16), (32, 16)])
def test_the_wrong_model(masked, sizes):
    put(masked / "wrong.onnx", mlp(sizes))
    for proto in (mlp(sizes), renamed(mlp(sizes))):
        put(masked / "wrong.onnx", proto)
        if len(sizes) == 4 and proto.graph.initializer[0].name == "fc0.weight":
            continue  # its first two layers fit
        with pytest.raises(MaskError, match=r"wrong\.onnx.*fc\d\.weight|wrong\.onnx.*onnx::"):
            onnxprune.apply_masks("wrong.onnx", "k.safetensors", "a.onnx")
        with pytest.raises(MaskError):
            onnxprune.check_masks("wrong.onnx", "k.safetensors")
    assert not (masked / "a.onnx").exists()


@pytest.mark.parametrize("build", [qdq, lambda: qdq((-5, 5)), qlinear])
def test_a_quantised_weight_gets_its_zero_point(folder, build):
    put(folder / "q.onnx", build())
    onnxprune.prune("q.onnx", "p.onnx", sparsity=0.7, masks="k.npz")
    onnxprune.apply_masks("q.onnx", "k.npz", "a.onnx")
    np.testing.assert_array_equal(values("a.onnx")["w"], values("p.onnx")["w"])
    assert onnxprune.check_masks("a.onnx", "k.npz") == {"w": round(0.7 * 2048)}


def test_requests_that_contradict_themselves(mlp_files):
    with pytest.raises(OptionError, match="give sparsity"):
        onnxprune.compress("m.onnx", "p.onnx", masks="k.npz")
    with pytest.raises(OptionError, match="give masks"):
        onnxprune.prune("m.onnx", "p.onnx", sparsity=0.5, names_from="c.safetensors")
    with pytest.raises(OutputError, match="is a model"):
        onnxprune.prune("m.onnx", "p.onnx", sparsity=0.5, masks="m.onnx")
    with pytest.raises(OutputError, match="is an input"):
        onnxprune.export_masks("m.onnx", "m.onnx")
    with pytest.raises(MaskError, match="no weight that is pruned"):
        onnxprune.export_masks("m.onnx", "k.npz")
    with pytest.raises(OptionError, match="nothing says"):
        onnxprune.update("m.onnx", "r.safetensors", "u.onnx")


def test_an_original_that_is_another_model(masked):
    put(masked / "o.onnx", mlp((32, 60, 16)))
    with pytest.raises(MaskError, match=r"o\.onnx is not what was pruned.*'fc0\.weight' of"):
        onnxprune.export_masks("p.onnx", "x.npz", original="o.onnx")


def test_nothing_is_written_when_the_masks_cannot_be(mlp_files, folder):
    with pytest.raises(OutputError, match="nowhere"):
        onnxprune.prune("m.onnx", "p.onnx", sparsity=0.5, masks="nowhere/k.npz")
    assert not (folder / "p.onnx").exists()


# values back -----------------------------------------------------------------------------------------


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


# the command line ------------------------------------------------------------------------------------


def test_the_commands(masked, mlp_files):
    from click.testing import CliRunner

    from onnxprune.cli import cli

    def call(*args):
        done = CliRunner().invoke(cli, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    call("prune", "m.onnx", "-o", "q.onnx", "--sparsity", "0.5", "--masks", "q.npz", "--names-from", "c.safetensors")
    assert "dense0/kernel" in call("masks", "export", "q.onnx", "-o", "e.npz", "--names-from", "c.safetensors")
    assert "2 masks keep 1,536 of 3,072 entries; 2 more parameters are named" in call("masks", "show", "e.npz")
    assert json.loads(call("masks", "show", "e.npz", "--json"))["version"] == mask_files.VERSION
    assert "written" not in call("masks", "apply", "m.onnx", "e.npz", "-o", "a.onnx", "--json", "facts.json")
    assert "1,536 masked entries of 2 weights are zero" in call("masks", "check", "a.onnx", "e.npz")
    assert "u.onnx" in call("update", "q.onnx", "--from", "r.safetensors", "-o", "u.onnx", "--masks", "q.npz")


def test_parameters_of_one_element_are_said_to_stay(folder):
    """No value tells them apart; a bias of a single output is one."""
    put(Path("m.onnx"), mlp((8, 64, 1)))
    before = values("m.onnx")
    before["fc1.bias"] = np.zeros(1, np.float32)
    save_file(before, "old.safetensors")
    save_file({n: a + 1 for n, a in before.items()}, "new.safetensors")
    result = onnxprune.update("m.onnx", "new.safetensors", "o.onnx", names_from="old.safetensors")
    assert "parameters of one element stay as they were: fc1.bias" in result.notes
    np.testing.assert_array_equal(values("o.onnx")["fc1.weight"], before["fc1.weight"] + 1)

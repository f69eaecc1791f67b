"""Mask files onto models: applied, checked, matched to what was exported again."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import MaskError, OptionError, OutputError, ToleranceMissed
from onnxprune.model.model import Model
from onnxprune_passes import ApplyMasks
from tests.helpers.builders import info, mlp, model, node, normal, qdq, qlinear
from tests.helpers.running import initializers, put, serialise
from tests.masks.weights import SIZES, renamed, values


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

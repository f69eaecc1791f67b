"""The loop against torch itself: its exporters' models pruned, masks into torch, retrained weights back."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.errors import CheckpointError
from onnxprune.masks.matching.match import match
from onnxprune.model.discovery import find
from onnxprune.model.model import Model

torch = pytest.importorskip("torch", reason="these tests need the train extra")
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.helpers.networks import build, export, wander  # noqa: E402
from tests.helpers.repository import ROOT  # noqa: E402

pytestmark = pytest.mark.torch

NETWORKS = ["mlp", "conv", "merged", "separate", "lstm"]
PARAMETERS = {"mlp": 3, "conv": 8, "merged": 11, "separate": 13, "lstm": 6}  # that are weights of the model
each_export = pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])


def run(path: Path, x: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


def apply_masks(net: torch.nn.Module, masks: dict[str, np.ndarray]) -> None:
    state = net.state_dict()
    with torch.no_grad():
        for name, mask in masks.items():
            state[name] *= torch.from_numpy(mask)


@each_export
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loop(name, dynamo, tmp_path):
    """Masked in torch it computes what the pruned model does; retrained, the updated model computes what it does."""
    net, x = build(name)
    source, pruned, updated = (tmp_path / f"{n}.onnx" for n in ("m", "p", "u"))
    export(net, x, source, dynamo)
    before, after, masks = tmp_path / "before.pt", tmp_path / "after.pt", tmp_path / "masks.safetensors"
    torch.save(net.state_dict(), before)
    result = onnxprune.prune(source, pruned, sparsity=0.6, masks=masks, names_from=before)
    file = onnxprune.read_masks(masks)
    assert not any("keeps its ONNX name" in note for note in result.notes)
    assert len(file.parameters) == PARAMETERS[name]
    tied = "'embed.weight' gets no mask" in " ".join(result.notes)
    assert tied == (name in ("merged", "separate"))
    if not tied:
        assert len(file.masks) == len([w for w in result.weights if w.requested is not None])
        apply_masks(net, file.masks)
        with torch.no_grad():
            np.testing.assert_allclose(run(pruned, x), net(x).numpy(), rtol=1e-4, atol=1e-4)

    wander(net, seed=2)
    apply_masks(net, file.masks)
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, after)
    with torch.no_grad():
        expected = net(x).numpy()
    for start, options in ((source, {"masks": masks}), (source, {"names_from": before}),
                           (pruned, {"masks": masks, "names_from": before})):  # fmt: skip
        result = onnxprune.update(start, after, updated, **options)
        np.testing.assert_allclose(run(updated, x), expected, rtol=1e-4, atol=1e-4)
        assert result.notes == []
    onnxprune.check_masks(updated, masks)

    again = export(net, x, tmp_path / "again.onnx", dynamo)
    onnxprune.check_masks(again, masks)
    onnxprune.update(pruned, again, updated, masks=masks)
    np.testing.assert_allclose(run(updated, x), expected, rtol=1e-4, atol=1e-4)


@each_export
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_layer_is_matched(name, dynamo, tmp_path):
    net, x = build(name)
    model = Model.load(export(net, x, tmp_path / "m.onnx", dynamo))
    arrays = {n: t.numpy() for n, t in net.state_dict().items()}
    kinds = {w.name: w.kind for w in find(model)}
    layers = {
        n for n, kind in kinds.items() if kind in ("gemm", "matmul", "conv", "conv_transpose", "lstm", "embedding")
    }
    matches = match(model, arrays)
    assert len(layers) >= 2
    assert not layers & matches.unmatched.keys()
    for parameter, entry in matches.parameters.items():
        for link in (link for link in entry.links if link.fold is None):
            weight = next(w for w in find(model) if w.name == link.weight)
            part = link.into.of(weight.array(model)) if link.into else weight.array(model)
            np.testing.assert_array_equal(link.to_weight(arrays[parameter], weight.shape), part)


def test_the_exporter_may_keep_a_name_and_change_the_values(tmp_path):
    """Dynamo folds the batch norm into `3.bias` and leaves it that name: a match by name would lose the norm."""
    net, x = build("conv")
    model = Model.load(export(net, x, tmp_path / "m.onnx", dynamo=True))
    found = match(model, {n: t.numpy() for n, t in net.state_dict().items()}).parameters
    (link,) = found["4.running_var"].links
    assert link.weight == "3.bias"
    assert (link.fold.bias, link.fold.epsilon) == ("3.bias", 1e-3)
    assert found["3.weight"].links[0].fold.gamma == "4.weight"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half(kind, tmp_path):
    """An fp32 export of a checkpoint that was saved in half precision, and the other way round."""
    net, x = build("mlp")
    net.to(kind)
    torch.save({"model": net.state_dict()}, tmp_path / "c.pt")
    export(net.float(), x, tmp_path / "m.onnx", dynamo=False)
    onnxprune.prune(tmp_path / "m.onnx", tmp_path / "p.onnx", sparsity=0.5, masks=tmp_path / "k.npz",
                    names_from=tmp_path / "c.pt")  # fmt: skip
    assert set(onnxprune.read_masks(tmp_path / "k.npz").masks) == {"0.weight", "2.weight"}


def test_a_file_that_holds_code_is_refused(tmp_path):
    net, x = build("mlp")
    export(net, x, tmp_path / "m.onnx", dynamo=False)
    torch.save(net, tmp_path / "whole.pt")  # a pickled module: loading it would run whatever it names
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, message in (("whole", "more than weights"), ("list", "no state dict"), ("empty", "no arrays"),
                          ("text", r"text\.pt")):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            onnxprune.update(tmp_path / "m.onnx", tmp_path / f"{name}.pt", tmp_path / "u.onnx",
                             names_from=tmp_path / f"{name}.pt")  # fmt: skip


TRAIN = """
import sys
sys.path.insert(0, {root!r})
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.networks import build, wander
checkpoint, masks, out, number = sys.argv[1:]
net, _ = build("conv")
net.load_state_dict(load_file(checkpoint))
wander(net, seed=int(number))
state = net.state_dict()
for name, mask in load_file(masks).items():
    state[name] *= mask
save_file(state, out)
"""


@each_export
def test_rounds_under_folded_norms(dynamo, tmp_path):
    """Training that never reads ONNX, in three rounds: the model computes what torch does with the last checkpoint."""
    net, x = build("conv")
    source, out, before = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "before.safetensors"
    export(net, x, source, dynamo)
    save_file(net.state_dict(), before)
    (tmp_path / "train.py").write_text(TRAIN.format(root=str(ROOT)))
    train = shlex.join([sys.executable, str(tmp_path / "train.py"), "{checkpoint}", "{masks}", "{out}", "{round}"])
    result = onnxprune.iterate(source, out, to=0.9, rounds=3, names_from=before, retrain=train)
    assert result.rounds[-1].sparsity == pytest.approx(0.9, abs=1e-3)
    net.load_state_dict(load_file(tmp_path / "o.onnx.rounds" / "round-3" / "retrained.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(run(out, x), net(x).numpy(), rtol=1e-4, atol=1e-4)

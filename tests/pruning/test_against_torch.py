"""Models as torch's two exporters write them: pruned here and pruned in torch, the outputs are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune

torch = pytest.importorskip("torch", reason="the torch tests need the train extra")
from tests.helpers.networks import Recurrent, export  # noqa: E402

pytestmark = pytest.mark.torch

SHARE = 0.6


def networks() -> dict[str, tuple[torch.nn.Module, tuple[int, ...]]]:
    nn = torch.nn
    convolutional = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(800, 10),
    )
    return {
        "conv": (convolutional, (2, 3, 10, 10)),
        "mlp": (nn.Sequential(nn.Linear(40, 64, bias=False), nn.GELU(), nn.Linear(64, 30)), (2, 5, 40)),
        "lstm": (Recurrent(), (1, 7, 24)),
    }


def prune_in_torch(net: torch.nn.Module) -> None:
    for parameter in net.parameters():
        if parameter.dim() > 1 and parameter.numel() >= 256:
            flat = parameter.data.reshape(-1)
            flat[torch.argsort(flat.abs(), stable=True)[: round(SHARE * flat.numel())]] = 0


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("name", ["conv", "mlp", "lstm"])
def test_pruning_the_export_is_pruning_the_network(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, shape = networks()[name]
    net.eval()
    x = torch.randn(shape)
    source, target = tmp_path / "net.onnx", tmp_path / "small.onnx"
    export(net, x, source, dynamo)
    result = onnxprune.compress(source, target, sparsity=SHARE, values="exact")
    pruned = [w for w in result.weights if w.requested is not None]
    assert len(pruned) == sum(p.dim() > 1 and p.numel() >= 256 for p in net.parameters())
    assert all(w.zeros == round(SHARE * w.total) for w in pruned)
    prune_in_torch(net)
    with torch.no_grad():
        expected = net(x).numpy()
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)

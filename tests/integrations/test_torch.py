"""Masks kept by torch's own optimizers."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import MaskError, WeightError

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytestmark = pytest.mark.torch

from onnxprune.integrations import torch as masks_in_torch  # noqa: E402
from tests.helpers.repository import LENETS  # noqa: E402

LENET = LENETS["lenet-300-100"]
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, weight_decay=1e-2, nesterov=True),
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def some_masks(net: torch.nn.Module, names: tuple[str, ...] = ("0.weight", "3.weight", "5.weight")) -> dict:
    rng = np.random.default_rng(0)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters(remove_duplicate=False)}
    return {name: rng.random(shapes[name]) < 0.4 for name in names}


def steps(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for _ in range(count):
        loss = net(torch.randn(16, 1, 6, 6)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("first", ["masks", "optimizer", "steps"])
def test_pruned_weights_stay_zero_and_the_others_move(make, first: str) -> None:
    net = network()
    masks = some_masks(net)
    optimizer = make(net.parameters())
    if first == "steps":  # momentum that is there already
        steps(net, optimizer)
    masked = masks_in_torch.apply(net, masks)
    if first == "masks":
        optimizer = make(net.parameters())
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    steps(net, optimizer)
    masked.check()
    for name, parameter in net.named_parameters():
        kept = torch.from_numpy(masks.get(name, np.ones(tuple(parameter.shape), bool)))
        assert (parameter[~kept] == 0).all()
        assert (parameter[kept] != before[name][kept]).float().mean() > 0.5
    masked.remove()


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_masks_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    nn = torch.nn
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    masks = tmp_path / f"masks.{suffix}"
    onnxprune.prune(LENET, tmp_path / "pruned.onnx", sparsity=0.9, masks=masks, verify=False)
    for source in (masks, str(masks)):
        masks_in_torch.apply(net, source).remove()
    assert [int(net[i].weight.count_nonzero()) for i in (1, 3, 5)] == [23520, 3000, 100]
    with pytest.raises(MaskError, match="no such file"):
        masks_in_torch.apply(net, tmp_path / "none")


def test_gradients_of_pruned_weights_are_zero_also_of_weights_frozen_before() -> None:
    net = network()
    net[0].requires_grad_(False)
    masked = masks_in_torch.apply(net, masks := some_masks(net))
    assert not net[0].weight.requires_grad
    net[0].requires_grad_(True)
    net(torch.randn(4, 1, 6, 6)).sum().backward()
    for name, mask in masks.items():
        assert not net.get_parameter(name).grad[~torch.from_numpy(mask)].any()
        assert net.get_parameter(name).grad.any()
    masked.remove()


def test_remove_ends_it() -> None:
    net = network()
    masked = masks_in_torch.apply(net, some_masks(net))
    masked.remove()
    steps(net, torch.optim.Adam(net.parameters(), 1e-2))
    with pytest.raises(WeightError, match=r"not zero any more: '0.weight' \(\d+\), '3.weight'"):
        masked.check()


def test_a_handle_that_nobody_keeps_works_on() -> None:
    net = network()
    masks = some_masks(net)
    masks_in_torch.apply(net, masks)
    gc.collect()
    steps(net, torch.optim.Adam(net.parameters(), 1e-2))
    assert all(not net.get_parameter(n)[~torch.from_numpy(m)].any() for n, m in masks.items())


def test_a_checkpoint_loaded_later_is_masked_again() -> None:
    net = network()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    masked = masks_in_torch.apply(net, some_masks(net))
    net.load_state_dict(state)
    with pytest.raises(WeightError):
        masked.check()
    masked.zero()
    masked.check()
    masked.remove()


@pytest.mark.parametrize("names", [("a.weight",), ("b.weight",), ("a.weight", "b.weight")], ids="+".join)
def test_a_tied_parameter_is_masked_under_any_of_its_names(names: tuple[str, ...]) -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 6), "b": torch.nn.Linear(6, 6)})
    net["b"].weight = net["a"].weight
    mask = some_masks(net, ("a.weight",))["a.weight"]
    masked = masks_in_torch.apply(net, dict.fromkeys(names, mask))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):
        net["b"](net["a"](torch.randn(4, 6))).square().mean().backward()
        optimizer.step()
    assert not net["a"].weight[~torch.from_numpy(mask)].any()
    masked.remove()


def test_masks_that_do_not_fit_are_refused_by_name() -> None:
    net = network()
    masks = some_masks(net)
    with pytest.raises(MaskError, match=r"no parameter is called 'x.weight', 'y': the model has 0.weight, 0.bias, "):
        masks_in_torch.apply(net, masks | {"x.weight": masks["0.weight"], "y": masks["0.weight"]})
    with pytest.raises(MaskError, match=r"the mask of '3.weight' has shape \(64, 8\), the parameter \(8, 64\)"):
        masks_in_torch.apply(net, masks | {"3.weight": masks["3.weight"].T})
    with pytest.raises(MaskError, match=r"the mask of '0.weight' must be bool, not float64"):
        masks_in_torch.apply(net, masks | {"0.weight": masks["0.weight"] * 1.0})
    net[5].weight = torch.nn.Parameter(torch.ones(8, 64))
    net[3].weight = net[5].weight
    with pytest.raises(MaskError, match=r"'3.weight' and '5.weight' are one parameter, but their masks differ"):
        masks_in_torch.apply(net, {"3.weight": masks["3.weight"], "5.weight": ~masks["3.weight"]})

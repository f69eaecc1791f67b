"""A speed-up by channels, with a table in place of a clock: where it is cheapest, and the same again by its shares."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import OptionError, ToleranceMissed
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.search.speed import SpeedSearch, SpeedUp
from onnxprune_passes import Channels, DeadNeurons
from tests.helpers.builders import mlp
from tests.helpers.commands import call
from tests.helpers.running import load, put
from tests.reconstruction.test_sequential import correlated

SIZES = (48, 64, 48, 40, 8)


class Table:
    """Milliseconds of a run by the sizes of the weights: each entry takes what its layer's price says."""

    def __init__(self, prices: Sequence[float], fixed: float = 0.0) -> None:
        self._prices, self._fixed = prices, fixed
        self.asked = 0

    def __call__(self, before: Model, after: Model, seconds: float) -> tuple[float, float]:
        self.asked += 1
        slow, fast = map(self._of, (before, after))
        return slow, fast / slow

    def _of(self, model: Model) -> float:
        matrices = {weight.name: weight.size for weight in find(model) if weight.name.endswith("weight")}
        return self._fixed + sum(self._prices[int(name[2])] * size for name, size in matrices.items())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=correlated(160, SIZES[0]))
    return tmp_path / "data.npz"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return put(tmp_path / "model.onnx", mlp(SIZES, seed=3))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Table:
    """The clock of `compress` and `strip` is a table."""
    table = Table((1, 1, 1, 1), fixed=500)
    monkeypatch.setattr("onnxprune.search.speed.ProcessorTimes", lambda feeds: table)
    return table


def searched(data: Path, wanted: float, timer: Table, **options) -> SpeedUp:
    step = Channels(sparsity=0.0, data=str(data), **options)
    return SpeedSearch(load(mlp(SIZES, seed=3)), wanted, step, [DeadNeurons()], timer).run()


def kept(path: Path) -> list[int]:
    return [t.dims[0] for t in onnx.load(path).graph.initializer if t.name.endswith("bias")][:3]


@pytest.mark.parametrize("dear", [0, 3])
def test_channels_go_where_they_take_time(data, dear):
    prices = [0.001] * 4
    prices[dear] = 100.0
    found = searched(data, 1.5, Table(prices))
    (share,) = found.shares
    assert share.startswith(("fc0.weight=", "fc2.weight=")[dear == 3])
    assert found.before / found.after == pytest.approx(found.found)
    assert 1.5 <= found.found <= 1.58, "blocks of 8 alone come to 1.6"


def test_channels_go_where_they_are_missed_least(data):
    """All layers take the same time; half of the units of the second one are copies of the others."""
    proto = mlp(SIZES, seed=3)
    for tensor in proto.graph.initializer:
        if tensor.name in ("fc1.weight", "fc1.bias"):
            array = onnx.numpy_helper.to_array(tensor)
            half = np.take(array, np.tile(np.arange(24), 2), axis=array.shape.index(48))
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    timer = Table((1, 1, 1, 1))
    found = SpeedSearch(load(proto), 1.3, Channels(sparsity=0.0, data=str(data)), [DeadNeurons()], timer).run()
    shares = {name: float(share) for name, share in (entry.rsplit("=", 1) for entry in found.shares)}
    assert shares.pop("fc1.weight") >= 0.4
    assert sum(shares.values()) <= 0.1


def test_savings_that_overlap_are_made_up_for(data):
    """Of a matrix between two families each saves what the other would save, too: sums promise more than comes."""
    found = searched(data, 2.5, Table((0.01, 1, 1, 0.01)))
    assert 2.5 <= found.found <= 3.2
    assert len(found.shares) > 1


def test_kept_channels_are_whole_blocks(data):
    for options, block in (({}, 8), ({"multiple": 16}, 16)):
        found = searched(data, 1.4, Table((1, 1, 1, 1)), **options)
        sizes = {f"fc{n}.weight": size for n, size in enumerate(SIZES[1:])}
        for name, share in (entry.rsplit("=", 1) for entry in found.shares):
            assert (sizes[name] - round(float(share) * sizes[name])) % block == 0


def test_a_model_that_is_fast_enough_loses_no_channels(data):
    """Dead neurons alone bring the speed-up."""
    proto = mlp(SIZES, seed=3)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("fc0."):
            array = onnx.numpy_helper.to_array(tensor).copy()
            np.moveaxis(array, array.shape.index(64), 0)[:48] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    found = SpeedSearch(
        load(proto), 1.5, Channels(sparsity=0.0, data=str(data)), [DeadNeurons()], Table((1, 1, 1, 1))
    ).run()
    assert found.shares == ()
    assert found.found >= 1.5


def test_what_is_not_to_be_had_is_refused(data):
    with pytest.raises(ToleranceMissed, match=r"speed-up 4 is not to be had: .* 1\.\d\d times as fast here"):
        searched(data, 4.0, Table((1, 1, 1, 1), fixed=10_000))


@pytest.mark.parametrize("x", [correlated(1, SIZES[0]), np.full((8, SIZES[0]), np.nan, np.float32)], ids=["one", "NaN"])
def test_data_that_does_not_tell_what_channels_cost_is_what_the_refusal_names(data, x):
    np.savez(data, x=x)
    with pytest.raises(
        ToleranceMissed, match=r"speed-up 2 is not to be had: .* the data does not tell what that costs"
    ):
        searched(data, 2.0, Table((1, 1, 1, 1)))


# as a word of the API and of the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("function", [onnxprune.strip, onnxprune.compress])
def test_the_shares_that_are_shown_make_the_same_file(tmp_path, source, data, timed, function):
    result = function(source, tmp_path / "a.onnx", data=data, speed_up=1.4)
    assert result.speed_up.found >= 1.4
    assert timed.asked == result.speed_up.trials
    again = function(source, tmp_path / "b.onnx", data=data, channels=result.speed_up.shares)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert again.speed_up is None
    assert result.passes == again.passes


def test_the_command_shows_options_that_make_the_same_file(tmp_path, source, data, timed):
    shown = call("strip", source, "-o", tmp_path / "a.onnx", "--data", data, "--speed-up", "1.4").stdout
    (line,) = (text for text in shown.splitlines() if "the same again: " in text)
    options = shlex.split(line.split("the same again: ")[1])
    call("strip", source, "-o", tmp_path / "b.onnx", "--data", data, *options)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert kept(tmp_path / "a.onnx") != list(SIZES[1:4])


def test_a_budget_in_the_metric_is_kept_or_nothing_written(tmp_path, source, data, timed):
    out = tmp_path / "o.onnx"
    result = onnxprune.compress(source, out, data=data, speed_up=1.3, max_drop=30)
    assert result.speed_up.found >= 1.3
    assert result.search.held_out.result + 30 >= result.search.held_out.original
    out.unlink()
    with pytest.raises(ToleranceMissed, match=r"nothing written.*speed-up 3"):
        onnxprune.compress(source, out, data=data, speed_up=3.0, max_drop=0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"speed_up": 1.0}, "above 1"),
        ({"speed_up": float("nan")}, "above 1"),
        ({"speed_up": 1.5, "data": None}, "give data"),
        ({"speed_up": 1.5, "channels": 0.2}, "give one"),
        ({"speed_up": 1.5, "strip": False}, "give one"),
        ({"channels": "much"}, "must be a number"),
        ({"channels": [0.1, 0.2]}, "contradict"),
        ({"channels": "fc0.weight=1"}, "below 1"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense(tmp_path, source, data, options, said):
    with pytest.raises(OptionError, match=said):
        onnxprune.compress(source, tmp_path / "o.onnx", **({"data": data} | options))


def test_a_killed_search_for_the_loss_keeps_its_channels(tmp_path, source, data, timed, monkeypatch):
    """What was measured before the kill is not measured again: the times may differ, and the trials with them."""
    options = {"data": data, "speed_up": 1.3, "max_drop": 30}
    with monkeypatch.context() as killed:
        killed.setattr("onnxprune.search.budget.Search._decide", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            onnxprune.compress(source, tmp_path / "a.onnx", **options)
    asked = timed.asked
    result = onnxprune.compress(source, tmp_path / "a.onnx", **options)
    assert timed.asked == asked == result.speed_up.trials
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "data.npz", "model.onnx"]

"""What searches and scans tell whoever watches: what is counted is done, and never more than all."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.search import sensitivity
from onnxprune.search.speed import SpeedSearch
from onnxprune_passes import Channels, DeadNeurons
from tests.helpers.builders import mlp
from tests.helpers.running import load
from tests.reconstruction.test_sequential import correlated
from tests.search.test_speed import SIZES, Table

Heard = list[tuple[str, int, int]]


@pytest.fixture
def heard() -> Heard:
    return []


def test_a_scan_ends_at_all_trials(model, data, tmp_path, heard):
    sensitivity.scan(
        model, tmp_path / "s.json", data=data, levels=(0.5,), jobs=1, progress=lambda *told: heard.append(told)
    )
    assert heard == [("trials", done, 4) for done in (1, 2, 3, 4)]


def test_a_search_for_a_loss_counts_its_trials(model, data, tmp_path, heard):
    result = onnxprune.compress(
        model, tmp_path / "o.onnx", data=data, max_drop=5, progress=lambda *told: heard.append(told)
    )
    told = [counts for name, *counts in heard if name == "search"]
    assert [done for done, _ in told] == list(range(1, result.search.trials + 1))
    assert all(done <= total for done, total in told)


def test_a_search_for_a_speed_up_counts_what_it_measured(tmp_path, heard):
    np.savez(tmp_path / "data.npz", x=correlated(160, SIZES[0]))
    table, step = Table([1.0] * 4), Channels(sparsity=0.0, data=str(tmp_path / "data.npz"))
    search = SpeedSearch(load(mlp(SIZES, seed=3)), 1.5, step, [DeadNeurons()], table, lambda *told: heard.append(told))
    assert search.run().trials == table.asked
    told = [counts for name, *counts in heard if name == "trials"]
    assert [done for done, _ in told] == list(range(1, table.asked + 1))
    assert all(done <= total for done, total in told)

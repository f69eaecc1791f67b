"""What tools/bench makes of models: those it damages and strips, and the bars that judge its own rows."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune


def test_channels_are_killed_and_a_chain_is_analysed(bench: SimpleNamespace) -> None:
    model = bench.analysis.chain(8)
    bench.strip.kill(model, 0.5)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert (array == 0).all(axis=(1, 2, 3)).sum() >= 4
        assert (array == 0).all(axis=(0, 2, 3)).sum() >= 4
    assert bench.analysis.analyse(model) > 0


def rows(bench: SimpleNamespace, **own: object) -> list:
    fast = {"seconds": [1.0], "cpu": [1.0], "peaks": [200], "bytes": 10}
    row = bench.results.Row
    return [
        row("m", "the model as it is", read=100, bytes=100),
        row("m", "onnxprune compress", read=100, **fast | own),
        row("m", "onnxsim magnitude", read=100, seconds=[6.0], cpu=[6.0], peaks=[900], bytes=200),
        row("m", "gzip -6", problem="not installed"),
    ]


GOOD = {"weights": 3, "exact": 3, "equal": 3, "max_abs": 0.0}


@pytest.mark.parametrize(
    ("own", "checked", "missed"),
    [
        ({}, {}, ""),
        ({}, {"exact": 2}, "zeros"),
        ({}, {"equal": 2}, "decoded weights"),
        ({}, {"max_abs": 1e-3}, "outputs"),
        ({"bytes": 13}, {}, "file"),
        ({"peaks": [251]}, {}, "peak memory"),
        ({"seconds": [1.5]}, {}, "onnxsim"),
    ],
)
def test_a_missed_bar_is_named(bench: SimpleNamespace, own: dict, checked: dict, missed: str) -> None:
    lines = bench.models.bars(rows(bench, **own), GOOD | checked, True)
    bad = [line for line in lines if line.startswith("MISSED")]
    assert len(bad) == bool(missed)
    assert all(missed in line for line in bad)


def test_the_table_has_a_line_for_each_tool(bench: SimpleNamespace) -> None:
    text = bench.models.shown(rows(bench)).splitlines()
    assert len(text) == 2 + 4
    assert {line.count("|") for line in text} == {10}
    assert "| gzip -6 | not installed |" in text[-1]


def test_what_came_out_is_checked(bench: SimpleNamespace, tmp_path: Path) -> None:
    made, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    bench.made.fully_connected(str(made), (256, 256, 64))
    onnxprune.compress(made, out, sparsity=0.9, values="exact", verify=False)
    good = bench.models.check(str(made), str(out), str(tmp_path))
    assert good == {"weights": 2, "exact": 2, "equal": 2, "max_abs": 0.0}
    model = onnx.load(made)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        array[np.abs(array) < 0.01] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, out)
    bad = bench.models.check(str(made), str(out), str(tmp_path))
    assert (bad["weights"], bad["exact"], bad["equal"]) == (2, 0, 0)
    assert bad["max_abs"] > 0

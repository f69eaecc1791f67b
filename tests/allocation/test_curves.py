"""The file of a sensitivity scan: written and read back, and one error per fault."""

from __future__ import annotations

import json

import pytest

from onnxprune.allocation.curves import Curve, CurvePoint, Curves, read
from onnxprune.errors import CurvesError

CURVES = Curves(
    "ab" * 32, "top1", False, 99.1, 2000, "weights",
    (Curve("fc1.weight", "Gemm", 235200, (CurvePoint(0.5, 99.0), CurvePoint(0.9, 97.25))), Curve("c", "Conv", 25, ())),
)  # fmt: skip


def test_read_what_was_saved(tmp_path):
    CURVES.save(tmp_path / "s.json")
    assert read(tmp_path / "s.json") == CURVES


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "is of version 2"),
        ({"layers": 3}, "holds no sensitivity scan"),
        ({"layers": [{"name": "a"}]}, "holds no sensitivity scan"),
        ({"layers": [{"name": "a", "kind": "", "size": 1, "points": [{"sparsity": 2, "metric": 1}]}]}, "sparsity 2"),
        ({"baseline": "NaN"}, "not finite"),
        ({"of": "neurons"}, "neurons"),
    ],
)
def test_one_error_per_fault(tmp_path, change, text):
    path = tmp_path / "s.json"
    CURVES.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CurvesError, match=text):
        read(path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"{}"])
def test_other_files(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(CurvesError):
        read(path)
    with pytest.raises(CurvesError, match="cannot read"):
        read(tmp_path / "none")

"""Files that earlier releases wrote are read for ever: those in tests/data, which make.py there describes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.allocation import curves
from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.batch import ledger
from onnxprune.core.files import digest, unchanged
from onnxprune.encodings.graph.encoded import encoded_weights
from tests.helpers.repository import DATA
from tests.helpers.running import arrays, feeds_of, run

FROZEN, SECOND = DATA / "encoded-1", DATA / "encoded-2"
# Encoding and values: of a Gemm and a convolution, of a MatMul and a Gemm whose integers a kernel reads, of the rest.
FOLDED = {
    "coo": ["exact"],
    "flat": ["exact", "half", "shared4", "int8", "int85", "int4"],
    "rows": ["exact", "half", "shared4", "int8", "int4"],
    "bitmask": ["exact", "half", "shared4", "int8", "int4"],
    "dense": ["half", "shared4", "int8", "int4"],
    "escape": ["shared4"],
}
FUSED = {
    "auto": ["auto"],
    "flat": ["int8", "int85", "int4"],
    "rows": ["int8", "int4"],
    "bitmask": ["int8", "int4"],
    "dense": ["int8", "int4"],
    "escape": ["int85", "int4"],
}
ENCODED = [
    *(f"folded-{encoding}-{form}" for encoding, forms in FOLDED.items() for form in forms),
    *(f"fused-{encoding}-{form}" for encoding, forms in FUSED.items() for form in forms),
    *(f"product-{encoding}-int8-dynamic" for encoding in ("flat", "rows", "bitmask", "dense")),
    "twice-bitmask-int4",
    "if-flat-shared4",
    "function-bitmask-int85",
    "opset9-bitmask-exact",
    "ir3-dense-half",
    "qdq-flat-shared4",
    "fp64-rows-half",
    "table-gathered-shared2",
    "table-gathered-int4",
]
# With codes in rows of words, as they are written now: those of encoded-1 are side by side in a word.
ROWS_OF_WORDS = [
    *(f"folded-{encoding}-shared4" for encoding in ("bitmask", "dense", "escape")),
    "folded-flat-int85",
    *(f"fused-{encoding}-int85" for encoding in ("flat", "rows", "escape")),
    "fused-escape-int4",
    "function-bitmask-int85",
]
FILES = [*(FROZEN / f"{name}.onnx" for name in ENCODED), *(SECOND / f"{name}.onnx" for name in ROWS_OF_WORDS)]
INTEGERS = ("fused", "twice", "qdq")  # a kernel that reads integers rounds what it multiplies with them
DYNAMIC = "product"  # which rounds whoever computes it


def test_all_files_are_read_here():
    assert {*FROZEN.glob("*.onnx"), *SECOND.glob("*.onnx")} == set(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_decodes_to_the_weights_that_it_was_written_with(file, tmp_path):
    onnxprune.decode(file, tmp_path / "o.onnx", verify=False)
    model, _, values = file.stem.split("-", 2)
    with np.load(file.with_name(f"{model}-{values}.npz")) as stored:
        expected = {key: (stored[key].dtype, stored[key].shape, stored[key].tobytes()) for key in stored}
    opened = onnxprune.load(tmp_path / "o.onnx")
    assert arrays(opened) == expected
    assert not encoded_weights(opened)
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_runs_as_what_it_decodes_to(file, tmp_path):
    source = file.read_bytes()
    onnxprune.decode(file, tmp_path / "o.onnx", verify=False)
    decoded = (tmp_path / "o.onnx").read_bytes()
    for flag in (True, False):
        given = feeds_of(onnx.load_from_string(decoded), flag=flag)
        expected, plain = (run(proto, given, optimised=False) for proto in (decoded, source))
        for wanted, node_by_node, optimised in zip(expected, plain, run(source, given), strict=True):
            size = np.linalg.norm(wanted)
            assert size > 0
            near = 0.02 if file.stem.startswith(DYNAMIC) else 1e-5
            assert np.linalg.norm(node_by_node - wanted) <= near * size
            assert np.linalg.norm(optimised - wanted) <= (0.02 if file.stem.startswith(INTEGERS) else near) * size


@pytest.mark.parametrize(
    ("name", "form", "weights"),
    [("fused-dense-int4", "dense int4 for MatMul", 2), ("folded-rows-half", "rows half", 2),
     ("folded-coo-exact", "coo", 2), ("twice-bitmask-int4", "bitmask int4 for MatMul", 1),
     ("if-flat-shared4", "flat shared", 3)],
)  # fmt: skip
def test_the_form_of_a_file_is_told(name, form, weights):
    assert [(f.form, f.weights) for f in onnxprune.compat(FROZEN / f"{name}.onnx").forms] == [(form, weights)]


def test_a_packed_file_is_unpacked_byte_for_byte(tmp_path):
    onnxprune.unpack(FROZEN / "packed.onnxz", tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == (FROZEN / "fused-dense-int8.onnx").read_bytes()


def points(*metrics: float) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(level, metric) for level, metric in zip((0.3, 0.6, 0.9), metrics, strict=True))


def test_the_curves_of_a_scan_are_read():
    assert curves.read(FROZEN / "curves.json") == Curves(
        "5234d958ee0ac77e1963db8bbed9d57f2f98ff3caed855abe410d344f6a27642", "sqnr", False, 1000.0, 32, "weights",
        (
            Curve("matrix", "gemm", 2304, points(18.19015056034759, 8.91165111325694, 2.6499303247666406)),
            Curve("kernel", "conv", 2160, points(18.23074165531262, 8.527334711099295, 2.319837445188541)),
        ),
    )  # fmt: skip


def test_the_ledger_of_a_folder_is_read_and_kept(tmp_path):
    folder = Path(shutil.copytree(FROZEN / "batch", tmp_path / "batch"))
    before = (folder / ledger.NAME).read_bytes()
    with ledger.opened(folder) as held:
        record = held.get(folder / "deep" / "folded.onnx")
    assert record is not None
    assert len(record.key) == 64
    assert record.files == {"folded.onnx": digest(folder / "deep" / "folded.onnx")}
    assert unchanged(folder / "deep", record.files)
    assert record.result["output"]["bytes"] == (folder / "deep" / "folded.onnx").stat().st_size
    assert [weight["encoding"] for weight in record.result["weights"]] == ["flat int8", "flat int8"]
    assert (folder / ledger.NAME).read_bytes() == before

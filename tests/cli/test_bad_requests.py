"""Options, data and masks that make no sense or do not fit: one line that says what is wrong, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxprune
from tests.cli.bad_files import bad_files
from tests.helpers.builders import mlp
from tests.helpers.commands import SIZES
from tests.helpers.running import put

# bad requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--sparsity", "-0.1"], 1, "sparsity"),
        (["--sparsity", "1"], 1, "sparsity"),
        (["--sparsity", "1.5"], 1, "sparsity"),
        (["--sparsity", "nan"], 1, "sparsity"),
        (["--sparsity", "inf"], 1, "sparsity"),
        (["--sparsity", "abc"], 2, "abc"),
        (["--quality", "-1"], 1, "quality"),
        (["--quality", "nan"], 1, "quality"),
        (["--threshold", "nan"], 1, "threshold"),
        (["--sparsity", "0.5", "--quality", "1"], 1, "quality"),
        (["--sparsity", "0.5", "--pattern", "2:4"], 1, "2:4"),
        (["--pattern", "4:2"], 1, "pattern"),
        (["--pattern", "0x0"], 1, "pattern"),
        (["--pattern", "axb"], 1, "pattern"),
        (["--scope", "sideways"], 1, "scope"),
        (["--set", "nothing*=0.5"], 1, "nothing"),
        (["--set", "fc0.weight"], 1, "fc0.weight"),
        (["--set", "fc0.weight=abc"], 1, "fc0.weight"),
        (["--set", "fc0.weight=2"], 1, "fc0.weight"),
        (["--set", "=0.5"], 1, ""),
        (["--skip", "nothing*"], 1, "nothing"),
        (["--values", "magic"], 1, "magic"),
        (["--encoding", "magic"], 1, "magic"),
        (["--samples", "0"], 1, "samples"),
        (["--samples", "-3"], 1, "samples"),
        (["--samples", "x"], 2, "x"),
        (["--metric", "nonsense"], 1, "nonsense"),
        (["--tolerance", "nan"], 1, "tolerance"),
        (["--tolerance", "0.1", "--no-verify"], 1, "tolerance"),
        (["--no-such-option"], 2, "no-such-option"),
    ],
    ids=str,
)
def test_bad_options(refused, model, options, code, part):
    assert part in refused(code, "compress", model, *options)


@pytest.mark.parametrize("spec", ["", "nonsense", "magnitude{", "magnitude{sparsity=}", "magnitude{odd=1}",
                                  "magnitude{sparsity='a'}", "magnitude{sparsity=[1]}", "magnitude{skip=3}",
                                  "encode{values=3}", "magnitude{set=[1]}", "encode{}}", "magnitude{sparsity=true}",
                                  "magnitude{}\nx=1"])  # fmt: skip
def test_bad_specs(refused, model, tmp_path, spec):
    refused(1, "run", model, "-o", tmp_path / "o.onnx", "-p", spec)


def test_an_option_that_a_pass_lacks_is_named(refused, model, tmp_path):
    said = refused(1, "run", model, "-o", tmp_path / "o.onnx", "-p", "channels")
    assert said == "pass 'channels' needs the option 'sparsity'\n"


def test_prune_without_a_rule_names_options_of_its_own(refused, model, tmp_path):
    said = refused(1, "prune", model, "-o", tmp_path / "o.onnx")
    assert said == "nothing says how much to prune: give sparsity, quality, threshold, set or a pattern\n"


def test_usage(refused, model, tmp_path):
    refused(2, "prune", model)
    refused(2, "run", model, "-o", tmp_path / "o.onnx")
    refused(2, "verify", model)
    refused(2, "nonsense")


# bad data -------------------------------------------------------------------------------------------


def good() -> np.ndarray:
    return np.zeros((5, 32), np.float32)


def bad_data(folder: Path) -> dict[str, Path]:
    def save(name: str, **arrays) -> Path:
        np.savez(folder / f"{name}.npz", **arrays)
        return folder / f"{name}.npz"

    def write(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    whole = save("whole", x=good()).read_bytes()
    (folder / "no_arrays").mkdir()
    np.savez_compressed(folder / "packed.npz", x=np.random.default_rng(0).random((50, 32), np.float32))
    packed = bytearray((folder / "packed.npz").read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,32)}"
    header = b"\x93NUMPY\x01\x00\x76\x00" + shape.ljust(117) + b"\n"
    (folder / "huge").mkdir()
    write("huge/x.npy", header)
    return {
        "missing": folder / "gone.npz", "text": write("t.npz", b"hello"), "empty file": write("e.npz", b""),
        "cut": write("c.npz", whole[: len(whole) // 2]), "corrupt": write("corrupt.npz", bytes(packed)),
        "empty folder": folder / "no_arrays", "no arrays": save("none"),
        "huge": folder / "huge", "other name": save("name", z=good()), "more": save("more", x=good(), z=good()),
        "wide": save("wide", x=np.zeros((5, 9), np.float32)), "flat": save("flat", x=np.zeros(32, np.float32)),
        "deep": save("deep", x=np.zeros((1, 1, 5, 32), np.float32)), "scalar": save("scalar", x=np.float32(1)),
        "double": save("double", x=good().astype(float)), "int": save("int", x=good().astype(int)),
        "text array": save("str", x=np.array([["a"] * 32])), "zero rows": save("zero", x=good()[:0]),
        "pickled": save("pickle", x=np.array([{"a": 1}], object)),
    }  # fmt: skip


KINDS = ("missing", "text", "empty file", "cut", "corrupt", "empty folder", "no arrays", "huge", "other name",
         "more", "wide", "flat", "deep", "scalar", "double", "int", "text array", "zero rows", "pickled")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_data(refused, model, tmp_path, kind):
    data = bad_data(tmp_path)[kind]
    refused(1, "compress", model, "--data", data)
    refused(1, "verify", model, model, "--data", data)


# checks that are missed -----------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "tolerance"), [("agreement", 0.01), ("sqnr", 90), ("cosine", 1e-9), ("mse", 1e-12)])
def test_a_missed_tolerance_writes_nothing(refused, model, metric, tolerance):
    options = ["--sparsity", "0.95", "--metric", metric, "--tolerance", tolerance, "--samples", "50"]
    assert "tolerance" in refused(3, "compress", model, *options)


def test_models_whose_outputs_differ(refused, model, tmp_path):
    other = mlp(sizes=SIZES)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "elsewhere"
    put(tmp_path / "other.onnx", other)
    put(tmp_path / "wide.onnx", mlp(sizes=(32, 64, 5)))
    put(tmp_path / "narrow.onnx", mlp(sizes=(31, 64, 8)))
    assert "elsewhere" in refused(1, "verify", model, tmp_path / "other.onnx", "--tolerance", 1)
    refused(1, "verify", model, tmp_path / "narrow.onnx")
    for metric in ("agreement", "sqnr", "cosine"):
        refused(3, "verify", model, tmp_path / "wide.onnx", "--metric", metric, "--tolerance", 0.5)


def test_agreement_without_classes(refused, tmp_path):
    put(tmp_path / "one.onnx", mlp(sizes=(32, 64, 1)))
    assert "--metric" in refused(1, "verify", tmp_path / "one.onnx", tmp_path / "one.onnx", "--tolerance", 0.5)


# masks and checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path, model) -> Path:
    onnxprune.prune(model, tmp_path / "p.onnx", sparsity=0.8, masks=tmp_path / "k.safetensors", verify=False)
    return tmp_path / "k.safetensors"


@pytest.mark.parametrize("kind", bad_files())
def test_not_a_mask_file(refused, tmp_path, model, masks, kind):
    bad, out = tmp_path / "bad.safetensors", ["-o", tmp_path / "o.onnx"]
    bad.write_bytes(bad_files()[kind])
    for args in (
        ["masks", "show", bad],
        ["masks", "check", model, bad],
        ["masks", "apply", model, bad, *out],
        ["masks", "export", tmp_path / "p.onnx", "--names-from", bad, *out],
        ["update", model, "--from", bad, "--masks", bad, *out],
        ["update", model, "--from", bad, "--names-from", bad, *out],
    ):
        assert "bad.safetensors" in refused(1, *args)


def test_masks_that_do_not_fit(refused, tmp_path, model, masks):
    other = put(tmp_path / "other.onnx", mlp(sizes=(32, 48, 8)))
    line = refused(1, "masks", "apply", other, masks, "-o", tmp_path / "o.onnx")
    assert "other.onnx" in line
    assert "'fc0.weight' is [48, 32], not [64, 32]" in line
    assert "'fc0.weight' 1,638 of 1,638" in refused(3, "masks", "check", model, masks)
    assert "gone" in refused(1, "masks", "show", tmp_path / "gone")
    assert "gone" in refused(1, "masks", "export", tmp_path / "p.onnx", "-o", tmp_path / "gone" / "k.npz")
    assert "is no checkpoint" in refused(1, "update", model, "--from", model.parent / "w.h5", "-o", tmp_path / "o.onnx",
                                         "--masks", masks)  # fmt: skip


def test_a_prune_that_cannot_write_its_masks_writes_nothing(refused, tmp_path, model):
    out = ["-o", tmp_path / "o.onnx"]
    assert "k.npz" in refused(1, "prune", model, *out, "--sparsity", "0.5", "--masks", tmp_path / "gone" / "k.npz")
    assert "give sparsity" in refused(1, "compress", model, *out, "--masks", tmp_path / "k.npz")
    assert "give masks" in refused(1, "prune", model, *out, "--sparsity", "0.5", "--names-from", tmp_path / "c.npz")
    assert "c.npz" in refused(1, "prune", model, *out, "--sparsity", "0.5", "--masks", tmp_path / "k.npz",
                              "--names-from", tmp_path / "c.npz")  # fmt: skip

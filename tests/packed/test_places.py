"""pack and unpack: what they do not overwrite, what they refuse, and the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli import cli
from onnxprune.errors import ModelError, OutputError, PackedError
from tests.helpers.arrays import samples
from tests.helpers.running import put

TOOL = Path(sys.executable).with_name("onnxprune")

# files ----------------------------------------------------------------------------------------------


def test_sources_are_not_overwritten(external, tmp_path):
    small = tmp_path / "m.onnxz"
    with pytest.raises(OutputError, match="is the input"):
        onnxprune.pack(external, external)
    with pytest.raises(OutputError, match="is external data of"):
        onnxprune.pack(external, external.with_name("b.bin"))
    onnxprune.pack(external, small)
    with pytest.raises(OutputError, match="is the input"):
        onnxprune.unpack(small, small)
    with pytest.raises(OutputError, match="has that name"):
        onnxprune.unpack(small, tmp_path / "A.bin")


def test_other_data_is_not_overwritten(external, tmp_path):
    onnxprune.pack(external, tmp_path / "m.onnxz")
    target = tmp_path / "new.onnx"
    (tmp_path / "a.bin").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="other data is in the way"):
        onnxprune.unpack(tmp_path / "m.onnxz", target)
    assert (tmp_path / "a.bin").read_bytes() == b"somebody's"
    assert not target.exists()


def test_a_full_disk(small, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 10}))
    with pytest.raises(OutputError, match="10 are free"):
        onnxprune.unpack(small, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_no_model_is_not_packed(small, tmp_path):
    with pytest.raises(PackedError, match="packed already"):
        onnxprune.pack(small, tmp_path / "out")
    with pytest.raises(ModelError, match="No such file"):
        onnxprune.pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        onnxprune.pack(Path(__file__), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub/.a.bin", "such a name"), ("B.bin", "upper and lower case"), ("sub\x07/a.bin", "such a name"),
        ("a/" * 520 + "a.bin", "such a name"),
    ],
)  # fmt: skip
def test_external_data_that_cannot_be_packed(external, tmp_path, name, message):
    moved(external, name)
    with pytest.raises(PackedError, match=message):
        onnxprune.pack(external, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def moved(model: Path, name: str) -> None:
    """Move a.bin of a model to another place in its folder."""
    there = model.parent / name
    there.parent.mkdir(parents=True, exist_ok=True)
    model.with_name("a.bin").rename(there)
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("a.bin", name)
    put(model, proto)


@pytest.mark.parametrize("name", ["sub/a.bin", "weights/part one/ä.bin", "b/b.bin"])
def test_external_data_in_a_folder_of_its_own(external, tmp_path, name):
    """It comes back where it was, also over what was restored before, and is found in a session."""
    moved(external, name)
    onnxprune.pack(external, tmp_path / "m.onnxz")
    place = tmp_path / "elsewhere"
    place.mkdir()
    for _ in range(2):
        onnxprune.unpack(tmp_path / "m.onnxz", place / "n.onnx")
    assert (place / "n.onnx").read_bytes() == external.read_bytes()
    assert (place / name).read_bytes() == (tmp_path / name).read_bytes()
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert found == {"n.onnx", "b.bin", name}
    feeds = {"x": samples(3, 32)}
    (expected,) = onnxprune.session(external).run(None, feeds)
    np.testing.assert_array_equal(onnxprune.session(tmp_path / "m.onnxz").run(None, feeds)[0], expected)


@pytest.mark.parametrize("kind", ["file", "other", "link"])
def test_a_folder_that_is_in_the_way(external, tmp_path, kind):
    """Nothing is written over, and no link leads out of the folder."""
    moved(external, "sub/a.bin")
    onnxprune.pack(external, tmp_path / "m.onnxz")
    place, away = tmp_path / "elsewhere", tmp_path / "away"
    place.mkdir()
    away.mkdir()
    if kind == "link":
        (place / "sub").symlink_to(away, target_is_directory=True)
    elif kind == "file":
        (place / "sub").write_bytes(b"somebody's")
    else:
        (place / "sub").mkdir()
        (place / "sub" / "a.bin").write_bytes(b"somebody's")
    before = sorted(place.rglob("*"))
    with pytest.raises(OutputError, match="out of the folder" if kind == "link" else "other data is in the way"):
        onnxprune.unpack(tmp_path / "m.onnxz", place / "n.onnx")
    assert sorted(place.rglob("*")) == before
    assert list(away.iterdir()) == []
    with pytest.raises(OutputError, match="has that name"):
        onnxprune.unpack(tmp_path / "m.onnxz", tmp_path / "new" / "Sub")


# the command line -----------------------------------------------------------------------------------


def test_the_commands(model, tmp_path):
    small, back = tmp_path / "m.onnxz", tmp_path / "back.onnx"
    result = CliRunner().invoke(cli, ["pack", str(model), "-o", str(small)], catch_exceptions=False)
    sizes = f"{model.stat().st_size:,} -> {small.stat().st_size:,} bytes, ratio"
    assert result.output.startswith(f"{small}: {sizes} 1.")
    result = CliRunner().invoke(cli, ["unpack", str(small), "-o", str(back)], catch_exceptions=False)
    assert result.output.startswith(f"{back}: {small.stat().st_size:,} -> {model.stat().st_size:,} bytes, ratio 1.")
    assert back.read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["unpack", "m.onnx", "-o", "out.onnx"], 1, "Error: m.onnx is not a packed model\n"),
        (["unpack", "nowhere", "-o", "out.onnx"], 1, "Error: cannot read nowhere: No such file or directory\n"),
        (["unpack", "m.onnxz", "-o", "m.onnxz"], 1, "Error: m.onnxz is the input\n"),
        (["pack", "m.onnxz", "-o", "out.onnx"], 1, "Error: m.onnxz is packed already\n"),
        (["pack", "m.onnx", "-o", "m.onnx"], 1, "Error: m.onnx is the input\n"),
        (["pack", "m.onnx", "-o", "no/where"], 1, "Error: cannot write no/where: No such file or directory\n"),
        (["pack", "m.onnx"], 2, "Missing option '-o'"),
    ],
)
def test_errors_are_one_line(small, command, code, message):
    done = subprocess.run([TOOL, *command], cwd=small.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert code == 2 or done.stderr == message
    assert sorted(p.name for p in small.parent.iterdir()) == ["m.onnx", "m.onnxz"]

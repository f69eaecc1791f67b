"""Models at URLs, in fsspec's own memory: what comes back, what is left there, and what a user reads when it fails."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune.core.files import is_url
from onnxprune.errors import ModelError, OnnxPruneError, OptionError, OutputError, ToleranceMissed
from tests.helpers.builders import mlp
from tests.helpers.commands import call

fsspec = pytest.importorskip("fsspec")
SIZES = (64, 128, 8)
FAST = {"sparsity": 0.5, "values": "exact", "verify": False}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store with a model, and one with external data; temporary folders are under watch."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe("/in/m.onnx", mlp(sizes=SIZES).SerializeToString())
    (tmp_path / "sub").mkdir()
    path = tmp_path / "e.onnx"
    onnx.save(mlp(sizes=SIZES), path, save_as_external_data=True, location="sub/e.data", size_threshold=0)
    memory.put(str(path), "/in/e.onnx")
    memory.put(str(tmp_path / "sub" / "e.data"), "/in/sub/e.data")
    yield memory
    memory.store.clear()
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert left <= {".ses"}  # ONNX Runtime's own: it puts it there with the first session of a process


def held(store) -> dict[str, bytes]:
    return {name: store.cat(name) for name in store.find("/")}


@pytest.mark.parametrize("name", ["m.onnx", "e.onnx"])
def test_the_result_is_that_of_files(store, tmp_path, name):
    store.get("/in", str(tmp_path / "here"), recursive=True)
    (tmp_path / "files").mkdir()
    expected = onnxprune.compress(tmp_path / "here" / name, tmp_path / "files" / "o.onnx", **FAST)
    before = held(store)
    result = onnxprune.compress(f"memory://in/{name}", "memory://out/deep/o.onnx", **FAST)
    assert (result.input.path, result.output.path) == (f"memory://in/{name}", "memory://out/deep/o.onnx")
    assert (result.input.bytes, result.output.bytes) == (expected.input.bytes, expected.output.bytes)
    written = {Path(name).name: content for name, content in held(store).items() if name not in before}
    assert written == {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()}
    assert {name: content for name, content in held(store).items() if name in before} == before
    assert onnxprune.verify("memory://out/deep/o.onnx", "memory://out/deep/o.onnx").outputs[0]["max_abs"] == 0


def test_from_and_to_files(store, tmp_path):
    onnxprune.compress("memory://in/e.onnx", tmp_path / "o.onnx", strip=False, **FAST)
    onnxprune.decode(tmp_path / "o.onnx", "memory://back.onnx", verify=False)
    assert any(name.startswith("/back.") and name.endswith(".data") for name in held(store))
    rows = {row["name"]: row for row in onnxprune.inspect("memory://back.onnx")}
    assert rows["fc0.weight"]["zeros"] == 64 * 128 // 2
    onnxprune.pack("memory://back.onnx", "memory://back.onnxz")
    onnxprune.unpack("memory://back.onnxz", "memory://again/back.onnx")
    assert store.cat("/again/back.onnx") == store.cat("/back.onnx")
    for name in ("memory://back.onnxz", "memory://again/back.onnx"):
        assert [i.name for i in onnxprune.session(name).get_inputs()] == ["x"]
    assert onnxprune.costs("memory://again/back.onnx").total.parameters == 64 * 128 + 128 * 8
    assert onnxprune.compat("memory://again/back.onnx").forms == []


def test_every_command(store, tmp_path):
    """A URL reaches the function as it was typed."""
    here, there = "memory://in/m.onnx", "memory://out/o.onnx"
    line = tmp_path / "r.json"
    assert there in call("compress", here, "-o", there, "--sparsity", "0.5", "--json", line).stdout
    assert json.loads(line.read_text())["input"]["path"] == here
    call("prune", here, "-o", there, "--sparsity", "0.5", "--masks", tmp_path / "masks.npz")
    call("masks", "check", there, tmp_path / "masks.npz")
    call("masks", "apply", here, tmp_path / "masks.npz", "-o", "memory://out/a.onnx")
    call("masks", "export", there, "-o", "memory://out/masks.npz", "--original", here)
    call("update", here, "--from", tmp_path / "e.onnx", "-o", "memory://out/u.onnx")
    call("strip", here, "-o", there)
    call("encode", here, "-o", there)
    call("decode", there, "-o", there, "--in-place")
    call("run", here, "-o", there, "-p", "magnitude{sparsity=0.5}")
    assert "fc0.weight" in call("inspect", there).stdout
    assert "fc0.weight" in call("inspect", there, "--cost").stdout
    assert "SQNR" in call("verify", here, there).stdout
    call("pack", there, "-o", "memory://out/o.onnxz")
    call("unpack", "memory://out/o.onnxz", "-o", there)
    assert "No weight is encoded" in call("compat", there).stdout
    assert {"/out/o.onnx", "/out/o.onnxz", "/out/a.onnx", "/out/u.onnx", "/out/masks.npz"} <= held(store).keys()


@pytest.mark.parametrize(
    ("model", "out", "error", "said"),
    [
        ("memory://in/none.onnx", "memory://o.onnx", ModelError, "cannot read memory://in/none.onnx: no such file"),
        ("memory://in/damaged.onnx", "memory://o.onnx", ModelError, "memory://in/damaged.onnx is not an ONNX model"),
        ("memory://alone/e.onnx", "memory://o.onnx", ModelError, "cannot read memory://alone/sub/e.data: no such file"),
        ("memory://in/m.onnx", None, OptionError, "memory://in/m.onnx is elsewhere: say where the result goes (-o)"),
        (
            "memory://in/m.onnx",
            "memory://in/m.onnx",
            OutputError,
            "memory://in/m.onnx is the input; give in_place=True",
        ),
        ("memory://in/m.onnx", "memory://out/", OptionError, "memory://out/ names no file"),
        ("memory://in", "memory://o.onnx", ModelError, "cannot read memory://in: it is not a regular file"),
        ("nowhere://in/m.onnx", "memory://o.onnx", OptionError, "nowhere://in/m.onnx: Protocol not known: nowhere"),
        ("memory://in/m.onnx", "nowhere://o.onnx", OptionError, "nowhere://o.onnx: Protocol not known: nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(store, model, out, error, said):
    store.pipe("/in/damaged.onnx", b"no model")
    store.cp("/in/e.onnx", "/alone/e.onnx")
    before = held(store)
    with pytest.raises(error) as caught:
        onnxprune.compress(model, out, **FAST)
    assert str(caught.value).startswith(said)
    assert held(store) == before


def test_external_data_outside_the_folder_is_not_fetched(store, tmp_path):
    proto = onnx.load(tmp_path / "e.onnx", load_external_data=False)
    for place in ("/in/sub/e.data", "../in/sub/e.data"):
        for entry in (e for t in proto.graph.initializer for e in t.external_data if e.key == "location"):
            entry.value = place
        store.pipe("/evil/e.onnx", proto.SerializeToString())
        with pytest.raises(ModelError, match=r"memory://evil/e\.onnx: tensor .* names data outside the model's folder"):
            onnxprune.inspect("memory://evil/e.onnx")


def test_a_miss_writes_nothing(store):
    before = held(store)
    with pytest.raises(ToleranceMissed):
        onnxprune.compress(
            "memory://in/m.onnx", "memory://o.onnx", sparsity=0.9, values="exact", metric="sqnr", tolerance=200
        )
    assert held(store) == before


def test_an_upload_that_breaks_leaves_the_old_model_and_its_data(store, monkeypatch):
    """External data goes first, so that a model which is there can be read."""
    onnxprune.decode("memory://in/e.onnx", "memory://o.onnx", verify=False)
    before = held(store)
    real = type(store).put_file

    def put_file(self, source, target, **options):
        if target.endswith(".onnx"):
            with self.open(target, "wb") as file:
                file.write(b"half")
            raise ConnectionError("the line is dead")
        return real(self, source, target, **options)

    monkeypatch.setattr(type(store), "put_file", put_file)
    with pytest.raises(OutputError, match=r"cannot write memory://o\.onnx: ConnectionError: the line is dead"):
        onnxprune.prune("memory://in/e.onnx", "memory://o.onnx", sparsity=0.5, verify=False)
    now = held(store)
    assert {name: now[name] for name in before} == before
    assert len(now) == len(before) + 1, "the new data lies there under its own name"
    monkeypatch.undo()
    assert onnxprune.verify("memory://in/e.onnx", "memory://o.onnx").outputs[0]["max_abs"] == 0


def test_what_is_missing_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OptionError, match=r"s3://bucket/m\.onnx: Install s3fs"):
        onnxprune.inspect("s3://bucket/m.onnx")
    real = builtins.__import__

    def without(name, *args):
        if name == "fsspec":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match=r"memory://in/m\.onnx: URLs need fsspec: pip install 'onnxprune\[remote\]'"):
        onnxprune.inspect("memory://in/m.onnx")


def test_what_is_no_url():
    assert is_url("s3://bucket/m.onnx")
    assert not any(map(is_url, ("m.onnx", "C://m.onnx", "a:b", "/a://b", Path("memory://x"), None, "", "://")))


def test_where_a_url_is_not_taken(store, tmp_path):
    url = "memory://in/m.onnx"
    assert f"'{url}' is a URL" in call("compress", url, "-o", tmp_path / "o", "--data", url, code=2).stderr
    for command in ("sensitivity", "report", "demo", "iterate"):
        assert f"'{url}' is a URL" in call(command, url, "-o", tmp_path / "o", code=2).stderr
    assert f"'{url}' is a URL" in call("demo", tmp_path / "e.onnx", url, "-o", tmp_path / "o", code=2).stderr
    assert "is a URL" in call("sensitivity", tmp_path / "e.onnx", "-o", "memory://out/s.json", code=2).stderr
    for given, out in (((url, url), tmp_path / "o"), ((tmp_path / "e.onnx", tmp_path / "e.onnx"), "memory://out")):
        with pytest.raises(OnnxPruneError, match="models at URLs are compressed one at a time"):
            onnxprune.compress_many(given, out)

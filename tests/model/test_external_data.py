"""External data in and out; hostile references are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from onnxprune.model.scopes import tensors_of
from tests.helpers.builders import mlp
from tests.helpers.running import put
from tests.model.external_data import external


def refer(path: Path, **fields: str | None) -> None:
    """Change the first external reference of the file at `path`."""
    model = onnx.load(path, load_external_data=False)
    where = {e.key: e.value for e in model.graph.initializer[0].external_data} | fields
    del model.graph.initializer[0].external_data[:]
    for key, value in where.items():
        if value is not None:
            model.graph.initializer[0].external_data.add(key=key, value=value)
    put(path, model)


def test_external_data_in_and_out(tmp_path):
    path = external(tmp_path)
    model = Model.load(path)
    assert model.companions() == [tmp_path / "m.data"]
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "o.onnx")
    out = tmp_path / "out"
    companions = [p.name for p in out.iterdir() if p.name != "o.onnx"]
    assert len(companions) == 1
    for mine, theirs in zip(tensors_of(onnx.load(out / "o.onnx")), tensors_of(mlp(sizes=(8, 300, 4))), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(theirs))
    raw = onnx.load(out / "o.onnx", load_external_data=False)
    assert {e.value for t in raw.graph.initializer for e in t.external_data if e.key == "location"} == set(companions)


def test_no_empty_companion(tmp_path):
    """Tensors that became small lie in the model itself."""
    model = Model.load(external(tmp_path))
    for tensor in model.proto.graph.initializer:
        model.replace(tensor, np.zeros(3, np.float32))
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "o.onnx")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["o.onnx"]
    assert not any(t.external_data for t in onnx.load(tmp_path / "out" / "o.onnx").graph.initializer)


def test_external_data_without_length(tmp_path):
    path = external(tmp_path)
    refer(path, length=None)
    model = Model.load(path)
    expected = mlp(sizes=(8, 300, 4)).graph.initializer[0]
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), numpy_helper.to_array(expected))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"location": "gone.data"}, "missing"),
        ({"location": ""}, "missing"),
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../m.data"}, "outside"),
        ({"location": "..\\m.data"}, "outside"),
        ({"location": "sub/../../m.data"}, "outside"),
        ({"location": "x" * 5000}, "damaged"),
        ({"location": "a\0b"}, "damaged"),
        ({"location": "circle"}, "damaged|missing"),
        ({"location": "escape"}, "outside"),
        ({"offset": "abc"}, "damaged"),
        ({"offset": "-64"}, "short"),
        ({"offset": "99999999999999999999"}, "short"),
        ({"length": "4"}, "needs 9,600"),
        ({"length": "-1"}, "needs 9,600"),
    ],
)
def test_a_hostile_reference_is_refused(tmp_path, fields, message):
    (tmp_path / "home").mkdir()
    (tmp_path / "m.data").write_bytes(bytes(99999))
    (tmp_path / "home" / "escape").symlink_to(tmp_path / "m.data")
    (tmp_path / "home" / "circle").symlink_to("circle")
    path = external(tmp_path / "home")
    refer(path, **fields)
    with pytest.raises(ModelError, match=message) as caught:
        Model.load(path)
    assert "fc0.weight" in str(caught.value)


def test_short_external_data_is_refused(tmp_path):
    path = external(tmp_path)
    os.truncate(tmp_path / "m.data", 5000)
    with pytest.raises(ModelError, match="short"):
        Model.load(path)


def test_a_cache_of_symlinks_is_read(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "snap").mkdir()
    external(tmp_path / "store")
    for name in ("m.onnx", "m.data"):
        (tmp_path / "snap" / name).symlink_to(tmp_path / "store" / name)
    assert Model.load(tmp_path / "snap" / "m.onnx").external

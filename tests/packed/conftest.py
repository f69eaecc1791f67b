"""Models to pack, and a packed one."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest

import onnxprune
from tests.helpers.builders import mlp
from tests.helpers.running import put


@pytest.fixture
def model(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp((32, 64, 16)))


@pytest.fixture
def small(model) -> Path:
    path = model.with_suffix(".onnxz")
    onnxprune.pack(model, path)
    return path


@pytest.fixture
def external(tmp_path) -> Path:
    """A model whose first weights are in a.bin, and the others in b.bin with a gap before each."""
    proto = mlp((32, 64, 16, 40))
    held = [t for t in proto.graph.initializer if len(t.raw_data) > 1024]
    files = {"a.bin": io.BytesIO(), "b.bin": io.BytesIO()}
    for number, tensor in enumerate(held):
        name = "a.bin" if number == 0 else "b.bin"
        files[name].write(b"gap!")
        where = {"location": name, "offset": files[name].tell(), "length": files[name].write(tensor.raw_data)}
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    files["b.bin"].write(b"the end")
    for name, file in files.items():
        (tmp_path / name).write_bytes(file.getvalue())
    return put(tmp_path / "m.onnx", proto)

"""Encoded models that were damaged: decode and inspect refuse them in one line, or say what is true."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import OnnxPruneError
from tests.helpers.builders import mlp
from tests.helpers.commands import SIZES
from tests.helpers.running import put


@pytest.fixture
def encoded(tmp_path) -> Path:
    source = put(tmp_path / "dense.onnx", mlp(sizes=SIZES))
    onnxprune.compress(source, tmp_path / "encoded.onnx", sparsity=0.8, strip=False, verify=False)
    return tmp_path / "encoded.onnx"


@pytest.fixture
def little_memory():
    """A damaged shape may ask for any amount: it is refused instead of filling the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_removed_parts(refused, encoded, tmp_path):
    count = len(onnx.load(encoded).graph.initializer)
    for index in range(count):
        proto = onnx.load(encoded)
        name = proto.graph.initializer[index].name
        if name.startswith("~"):
            del proto.graph.initializer[index]
            put(tmp_path / "broken.onnx", proto)
            refused(1, "decode", tmp_path / "broken.onnx", "-o", tmp_path / "o.onnx")


def damaged(index: int, damage: str, encoded: Path) -> onnx.ModelProto:
    proto = onnx.load(encoded)
    tensor = [t for t in proto.graph.initializer if t.name.startswith("~")][index]
    array = numpy_helper.to_array(tensor).copy()
    if damage == "shorter":
        array = array.reshape(-1)[:-1]
    elif damage == "ones":
        array = np.frombuffer(b"\xff" * array.nbytes, array.dtype).reshape(array.shape)
    elif damage == "type":
        array = array.astype(np.float64)
    elif damage == "zeros":
        array = np.zeros_like(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


@pytest.mark.parametrize("damage", ["shorter", "ones", "type", "zeros"])
def test_damaged_parts(encoded, tmp_path, damage):
    """A refusal that names the weight, or a decoded model of the right shapes; never anything else."""
    parts = [t for t in onnx.load(encoded).graph.initializer if t.name.startswith("~")]
    for index in range(len(parts)):
        put(tmp_path / "broken.onnx", damaged(index, damage, encoded))
        try:
            onnxprune.decode(tmp_path / "broken.onnx", tmp_path / "o.onnx", verify=False)
        except OnnxPruneError as error:
            assert not (tmp_path / "o.onnx").exists()
            assert "fc" in str(error)  # noqa: PT017 - a refusal is one of two good ends
        else:
            shapes = {t.name: list(t.dims) for t in onnx.load(tmp_path / "o.onnx").graph.initializer}
            assert shapes["fc0.weight"] == [64, 32]
            (tmp_path / "o.onnx").unlink()


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_flipped_bytes_never_surprise(encoded, little_memory, tmp_path, data):
    raw = bytearray(encoded.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "fuzz.onnx").write_bytes(raw)
    for attempt in (
        lambda: onnxprune.inspect(tmp_path / "fuzz.onnx"),
        lambda: onnxprune.decode(tmp_path / "fuzz.onnx", tmp_path / "o.onnx"),
        lambda: onnxprune.compress(tmp_path / "fuzz.onnx", tmp_path / "o.onnx", verify=False),
    ):
        try:
            attempt()
        except (OnnxPruneError, MemoryError):
            assert not list(tmp_path.glob(".*"))

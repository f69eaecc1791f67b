"""Models and their external data through the packed form."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.packed import reader, writer
from onnxprune.packed.coder import BYTES, CHUNK, CodeLayout
from tests.helpers.builders import matmul, mlp, normal
from tests.helpers.running import put
from tests.packed.digits import entropy, layouts, words_of


def there_and_back(source: Path, folder: Path, **options) -> Path:
    """Packs and unpacks into a folder of its own; returns the restored model."""
    folder.mkdir()
    small, back = folder / "m.onnxz", folder / source.name
    sizes = writer.pack(source, small, **options) if options else onnxprune.pack(source, small)
    assert sizes.after == small.stat().st_size
    again = onnxprune.unpack(small, back)
    assert (again.before, again.after) == (sizes.after, sizes.before)
    assert back.read_bytes() == source.read_bytes()
    return back


def test_every_model_comes_back(case, tmp_path):
    source = put(tmp_path / "m.onnx", case[0])
    there_and_back(source, tmp_path / "back")


@given(st.lists(st.tuples(st.sampled_from(["f4", "f2", "u1", "i8"]), st.integers(0, 3000)), max_size=4), st.data())
def test_any_weights_come_back(weights, data):
    rng = np.random.default_rng(len(weights))
    arrays = {f"w{i}": rng.integers(0, 9, size).astype(dtype) for i, (dtype, size) in enumerate(weights)}
    hints = {name: data.draw(layouts()) for name in arrays}
    proto = mlp()
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(put(Path(folder, "m.onnx"), proto), Path(folder, "back"), layouts=hints)


def test_hints_are_used(tmp_path):
    rng = np.random.default_rng(0)
    codes = np.clip(np.rint(rng.laplace(5, 1, (20_000, 9))), 0, 10).astype(int)
    proto = mlp()
    weight = np.frombuffer(words_of(codes, CodeLayout(4, 11, 9)), np.uint32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "codes"))
    source = put(tmp_path / "m.onnx", proto)
    there_and_back(source, tmp_path / "back", layouts={"codes": CodeLayout(4, 11, 9), "nobody": BYTES})
    assert (tmp_path / "back" / "m.onnxz").stat().st_size < 1.03 * entropy(codes.reshape(-1)) + 600


def test_external_data_comes_back(external, tmp_path):
    back = there_and_back(external, tmp_path / "back")
    for name in ("a.bin", "b.bin"):
        assert back.with_name(name).read_bytes() == external.with_name(name).read_bytes()
    assert sorted(p.name for p in back.parent.iterdir()) == ["a.bin", "b.bin", "m.onnx", "m.onnxz"]
    onnxprune.unpack(back.with_suffix(".onnxz"), back)  # the same data may be there already


def test_saved_external_data_comes_back(model, tmp_path):
    opened = onnxprune.load(model)
    opened.external = True
    onnxprune.save(opened, tmp_path / "e.onnx")
    back = there_and_back(tmp_path / "e.onnx", tmp_path / "back")
    assert onnxprune.verify(model, back).source == "synthetic"


def test_tensors_that_share_or_overlap_their_bytes(tmp_path):
    proto = matmul(normal(64, 32))
    first = proto.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(first.raw_data + bytes(100))
    first.ClearField("raw_data")
    first.data_location = onnx.TensorProto.EXTERNAL
    first.external_data.add(key="location", value="w.bin")
    for name, offset in (("same", 0), ("overlapping", 100)):
        other = proto.graph.initializer.add()
        other.CopyFrom(first)
        other.name = name
        other.external_data.add(key="offset", value=str(offset))
    source = put(tmp_path / "m.onnx", proto)
    back = there_and_back(source, tmp_path / "back")
    assert back.with_name("w.bin").read_bytes() == (tmp_path / "w.bin").read_bytes()


def test_packing_is_deterministic(external, tmp_path):
    for name in ("1", "2"):
        onnxprune.pack(external, tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_large_streams_are_coded_in_chunks(tmp_path):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(0, 16, CHUNK + 17), np.zeros(CHUNK)]).astype(np.uint8)
    proto = mlp()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(values, "big"))
    proto.graph.doc_string = "skeleton " * (CHUNK // 8)  # longer than a chunk as well
    there_and_back(put(tmp_path / "m.onnx", proto), tmp_path / "back")
    held = reader.Packed(tmp_path / "back" / "m.onnxz")
    assert [len(s) for s in held._streams] == [2, 3]


def test_a_model_of_zeros_is_padded_to_the_bound(tmp_path):
    proto = mlp()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2 * CHUNK, np.uint8), "zeros"))
    source = put(tmp_path / "m.onnx", proto)
    there_and_back(source, tmp_path / "back")
    assert (tmp_path / "back" / "m.onnxz").stat().st_size == -(-source.stat().st_size // reader.MAX_EXPANSION)

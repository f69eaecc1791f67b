"""Sessions on packed models."""

from __future__ import annotations

import contextlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnxprune
from onnxprune.core.machine import has_integer_kernels
from onnxprune.encodings.compatibility import session_entries
from onnxprune.errors import PackedError, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.packed import reader
from tests.helpers.builders import mlp
from tests.helpers.running import outputs, put


def answers(session: ort.InferenceSession) -> list[bytes]:
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 2 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    return [np.asarray(a).tobytes() for a in session.run(None, feeds)]


def test_a_session_opens_either_form(model, small):
    small = small.rename(small.with_name("misleading.onnx"))  # by its magic, not by its name
    options = ort.SessionOptions()
    plain = answers(ort.InferenceSession(model))
    for path in (model, str(model), small, str(small)):
        assert answers(onnxprune.session(path, sess_options=options, providers=["CPUExecutionProvider"])) == plain
    assert outputs(reader.Packed(small).model_bytes()) == outputs(model.read_bytes())


@pytest.mark.parametrize("large", [False, True])
def test_a_session_unpacks_to_a_folder_and_removes_it(external, tmp_path, monkeypatch, large):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if large:
        external = put(tmp_path / "one.onnx", mlp((32, 64, 16)))
        monkeypatch.setattr("onnxprune.api.files.IN_MEMORY", 100)
    onnxprune.pack(external, tmp_path / "m.onnxz")
    expected = answers(ort.InferenceSession(external))
    assert answers(onnxprune.session(tmp_path / "m.onnxz")) == expected
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("release", "entry"), [("1.24.4", True), ("1.25.0", False), ("1.33.0.dev1+cpu", False)])
def test_a_release_without_the_kernel_folds_integers(tmp_path, monkeypatch, release, entry):
    monkeypatch.setattr(ort, "__version__", release)
    integers, shared = tmp_path / "int8.onnx", tmp_path / "shared.onnx"
    dense = put(tmp_path / "dense.onnx", mlp((64, 128, 16)))
    onnxprune.compress(dense, integers, values="int8", verify=False)
    onnxprune.compress(dense, shared, values="shared:4", verify=False)
    onnxprune.pack(integers, tmp_path / "int8.onnxz")

    def folds(path, **keywords):
        options = onnxprune.session(path, **keywords).get_session_options()
        with contextlib.suppress(RuntimeError):  # the entry is not there
            return options.get_session_config_entry("session.disable_quant_qdq") == "1"
        return False

    assert folds(integers) == folds(tmp_path / "int8.onnxz") == entry
    assert not folds(dense)
    assert not folds(shared)
    assert not folds(integers, sess_options=ort.SessionOptions())


@pytest.mark.parametrize(
    ("machine", "said", "has"),
    [
        ("x86_64", "flags\t\t: fpu sse4_2 avx avx2 fma\n", True), ("x86_64", "flags\t\t: fpu sse4_2 avx\n", False),
        ("aarch64", "Features\t: fp asimd crc32 asimddp\n", True), ("aarch64", "Features\t: fp asimd crc32\n", False),
        ("aarch64", "Features\t: asimd asimddp\n\nFeatures\t: asimd\n", False), ("aarch64", "model name: it\n", True),
        ("riscv64", "isa : rv64gc\n", True), ("x86_64", None, True),
    ],
)  # fmt: skip
def test_a_processor_without_the_kernel_folds_integers(tmp_path, monkeypatch, machine, said, has):
    info = tmp_path / "cpuinfo"
    if said is not None:
        info.write_text(said)
    assert has_integer_kernels(info, machine) == has
    monkeypatch.setattr("onnxprune.api.files.has_integer_kernels", lambda: has_integer_kernels(info, machine))
    onnxprune.compress(put(tmp_path / "m.onnx", mlp((64, 128, 16))), tmp_path / "s.onnx", values="int8", verify=False)
    options = onnxprune.session(tmp_path / "s.onnx").get_session_options()
    if has:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.disable_quant_qdq")
    else:
        assert options.get_session_config_entry("session.disable_quant_qdq") == "1"


def test_a_model_that_quantises_itself_keeps_its_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.24.4")
    node = helper.make_node("QuantizeLinear", ["input", "scale"], ["small"])
    model = put(tmp_path / "m.onnx", mlp((64, 128, 16)))
    onnxprune.compress(model, tmp_path / "int8.onnx", values="int8", verify=False)
    proto = onnx.load(tmp_path / "int8.onnx")
    node.input[0] = proto.graph.input[0].name
    proto.graph.node.insert(0, node)
    assert not session_entries(Model(proto))


def test_sessions_that_do_not_open(small, tmp_path):
    small.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(PackedError, match="damaged"):
        onnxprune.session(small)
    with pytest.raises(RuntimeFailure, match=r"nowhere\.onnx"):
        onnxprune.session(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("library", [None, object()])
def test_a_system_without_glibc_opens_sessions_too(tmp_path, monkeypatch, library):
    def load(name: str | None) -> object:
        if library is None:
            raise OSError("no library has no name here")
        return library

    monkeypatch.setattr("onnxprune.core.machine.ctypes.CDLL", load)
    model = put(tmp_path / "m.onnx", mlp((64, 128, 16)))
    assert answers(onnxprune.session(model)) == answers(ort.InferenceSession(model))


def test_what_decoding_took_goes_back_to_the_system(tmp_path, monkeypatch):
    trimmed = []
    libc = type("Libc", (), {"malloc_trim": staticmethod(trimmed.append)})
    monkeypatch.setattr("onnxprune.core.machine.ctypes.CDLL", lambda name: libc)
    onnxprune.session(put(tmp_path / "m.onnx", mlp((64, 128, 16))))
    assert trimmed == [0]

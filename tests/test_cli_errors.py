"""Whatever is thrown at the command line: one line that says what is wrong, an exit code, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxprune
from onnxprune import cli
from onnxprune.errors import OnnxPruneError
from tests.helpers.builders import mlp
from tests.helpers.repository import LENETS
from tests.helpers.running import put

LENET = LENETS["lenet-5"]
SIZES = (32, 64, 8)  # big enough to be pruned
TOOL = Path(sys.executable).with_name("onnxprune")


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs `main` in this process as the shell would: (exit code, stdout, stderr)."""

    def run(*args) -> tuple[int, str, str]:
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", ["onnxprune", *map(str, args)])
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return (caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(call, tmp_path):
    """Asserts that a call fails in one line with the code, and changes no file; returns the line."""

    def check(code: int, *args) -> str:
        before = snapshot(tmp_path)
        status, out, err = call(*args)
        assert (status, out) == (code, ""), err
        assert err.count("Error: ") == 1
        assert "Traceback" not in err
        if code != 2:  # click shows the usage before the line
            assert err.startswith("Error: ")
            assert err.count("\n") == 1
        assert snapshot(tmp_path) == before
        return err.partition("Error: ")[2]

    return check


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def model(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp(sizes=SIZES))


@pytest.fixture
def encoded(tmp_path) -> Path:
    source = put(tmp_path / "dense.onnx", mlp(sizes=SIZES))
    onnxprune.compress(source, tmp_path / "encoded.onnx", sparsity=0.8, strip=False, verify=False)
    return tmp_path / "encoded.onnx"


# bad models -------------------------------------------------------------------------------------------


@pytest.fixture
def little_memory():
    """A damaged shape may ask for any amount: it is refused instead of filling the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def bad_files() -> dict[str, bytes]:
    rng, npz = np.random.default_rng(0), io.BytesIO()
    np.savez(npz, x=np.zeros(3))
    return {
        "empty": b"", "random": rng.bytes(5000), "zeros": bytes(5000), "json": b'{"a": 1}', "text": b"hello\n" * 100,
        "png": b"\x89PNG\r\n\x1a\n" + rng.bytes(2000), "npz": npz.getvalue(), "newline": b"\n",
        "no opset": onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", bad_files())
@pytest.mark.parametrize("command", ["compress", "inspect", "decode"])
def test_not_a_model(refused, tmp_path, kind, command):
    (tmp_path / "bad.onnx").write_bytes(bad_files()[kind])
    output = [] if command == "inspect" else ["-o", tmp_path / "o.onnx"]
    assert "bad.onnx" in refused(1, command, tmp_path / "bad.onnx", *output)


def test_costs_on_data_that_does_not_fit(refused, model, tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 no archive")
    assert "cut.npz" in refused(1, "inspect", model, "--data", tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", nothing=np.zeros((2, 2), np.float32))
    assert "holds no array named" in refused(1, "inspect", model, "--data", tmp_path / "other.npz", "--json")
    assert "samples must be at least 1" in refused(1, "inspect", model, "--samples", "-1")


def test_no_model_there(refused, tmp_path):
    assert "No such file" in refused(1, "inspect", tmp_path / "gone.onnx")
    assert "regular" in refused(1, "inspect", tmp_path)
    assert "regular" in refused(1, "inspect", "/dev/zero")
    assert "gone.onnx" in refused(1, "compress", tmp_path / "gone.onnx")
    refused(1, "compress", "")
    refused(1, "compress", "/")
    refused(1, "compress", "x" * 300)
    assert "gone.onnx" in refused(1, "verify", tmp_path / "gone.onnx", LENET)
    assert "gone.onnx" in refused(1, "verify", LENET, tmp_path / "gone.onnx")


def test_a_pipe_is_refused_and_not_waited_for(refused, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = subprocess.run([TOOL, "inspect", tmp_path / "fifo"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert "regular" in done.stderr


def test_every_truncation(tmp_path):
    whole = LENET.read_bytes()
    boundaries = [0, 1, 2, 7, *np.linspace(10, len(whole) - 1, 60).astype(int), *range(len(whole) - 12, len(whole))]
    for cut in boundaries:
        (tmp_path / "cut.onnx").write_bytes(whole[:cut])
        with pytest.raises(OnnxPruneError, match=r"cut\.onnx"):
            onnxprune.compress(tmp_path / "cut.onnx", verify=False)
        assert os.listdir(tmp_path) == ["cut.onnx"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(refused, tmp_path, value):
    proto = mlp(sizes=SIZES)
    weight = proto.graph.initializer[0]
    array = numpy_helper.to_array(weight).copy()
    array[3, 3] = value
    weight.raw_data = array.tobytes()
    line = refused(1, "compress", put(tmp_path / "nan.onnx", proto))
    assert "fc0.weight" in line


def test_a_weight_that_does_not_fit_its_shape(refused, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].dims[0] += 1
    assert "fc0.weight" in refused(1, "compress", put(tmp_path / "bad.onnx", proto))


def test_a_model_that_onnxruntime_refuses(refused, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.node[0].op_type = "Nonsense"
    assert "ONNX Runtime" in refused(1, "compress", put(tmp_path / "bad.onnx", proto))


# bad requests -----------------------------------------------------------------------------------------


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


def test_usage(refused, model, tmp_path):
    refused(2, "prune", model)
    refused(2, "run", model, "-o", tmp_path / "o.onnx")
    refused(2, "verify", model)
    refused(2, "nonsense")


# bad data ---------------------------------------------------------------------------------------------


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
    np.save(folder / "single.npy", good())
    return {
        "missing": folder / "gone.npz", "text": write("t.npz", b"hello"), "empty file": write("e.npz", b""),
        "cut": write("c.npz", whole[: len(whole) // 2]), "corrupt": write("corrupt.npz", bytes(packed)),
        "empty folder": folder / "no_arrays", "no arrays": save("none"), "single": folder / "single.npy",
        "huge": folder / "huge", "other name": save("name", z=good()), "more": save("more", x=good(), z=good()),
        "wide": save("wide", x=np.zeros((5, 9), np.float32)), "flat": save("flat", x=np.zeros(32, np.float32)),
        "deep": save("deep", x=np.zeros((1, 1, 5, 32), np.float32)), "scalar": save("scalar", x=np.float32(1)),
        "double": save("double", x=good().astype(float)), "int": save("int", x=good().astype(int)),
        "text array": save("str", x=np.array([["a"] * 32])), "zero rows": save("zero", x=good()[:0]),
        "pickled": save("pickle", x=np.array([{"a": 1}], object)),
    }  # fmt: skip


KINDS = ("missing", "text", "empty file", "cut", "corrupt", "empty folder", "no arrays", "single", "huge", "other name",
         "more", "wide", "flat", "deep", "scalar", "double", "int", "text array", "zero rows", "pickled")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_data(refused, model, tmp_path, kind):
    data = bad_data(tmp_path)[kind]
    refused(1, "compress", model, "--data", data)
    refused(1, "verify", model, model, "--data", data)


# bad places -------------------------------------------------------------------------------------------


def test_bad_outputs(refused, model, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "same").symlink_to("m.onnx")
    os.link(model, tmp_path / "hard")
    for place in ("file/o.onnx", "gone/o.onnx", "folder", "m.onnx", "same", "hard", ".", "y" * 300):
        assert (tmp_path / place).name[:20] in refused(1, "compress", model, "-o", tmp_path / place)
    for place in ("/dev/full", "/dev/null", "/proc/o.onnx", ""):
        refused(1, "compress", model, "-o", place)


def test_external_data_of_the_input_is_no_output(refused, tmp_path):
    onnx.save(mlp(sizes=SIZES), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    assert "external data" in refused(1, "compress", tmp_path / "e.onnx", "-o", tmp_path / "e.data")
    refused(1, "compress", tmp_path / "e.onnx", "-o", tmp_path / "e.data", "--in-place")


@pytest.mark.parametrize("place", ["gone/r.json", "m.onnx", "o.onnx", "."])
def test_a_report_that_cannot_be_written(refused, model, tmp_path, place):
    refused(1, "compress", model, "-o", tmp_path / "o.onnx", "--json", tmp_path / place)


def limited() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk(tmp_path):
    (tmp_path / "o.onnx").write_bytes(b"old")
    args = [TOOL, "prune", LENET, "-o", tmp_path / "o.onnx", "--sparsity", "0.5"]
    done = subprocess.run(args, preexec_fn=limited, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: cannot write ")
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == {str(tmp_path / "o.onnx"): b"old"}


def test_a_full_terminal(model):
    with open("/dev/full", "w") as full:
        done = subprocess.run([TOOL, "inspect", model], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["a[/b]", "[red]w", ":smile:", "ümlaut", "two\nlines"])
def test_names_are_printed_as_they_are(call, tmp_path, name):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = name
    put(tmp_path / "m.onnx", proto)
    for args in (["inspect", tmp_path / "m.onnx"], ["compress", tmp_path / "m.onnx"]):
        code, out, err = call(*args)
        assert (code, err) == (0, "")
        assert name.split("\n")[0] in out


def test_names_on_a_terminal_that_knows_ascii_only(tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "ümlaut"
    done = subprocess.run(
        [TOOL, "inspect", put(tmp_path / "m.onnx", proto)], capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


def test_in_place(call, model, tmp_path):
    code, _, err = call("compress", model, "-o", model, "--in-place", "--sparsity", "0.9", "-q")
    assert (code, err) == (0, "")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert b"onnxprune.passes" in model.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    """The signal comes when the temporary folder is there: in the middle of writing or verifying."""
    put(tmp_path / "m.onnx", mlp(sizes=(2000, 2000, 2000, 2000)))
    before = sorted(os.listdir(tmp_path))
    args = [TOOL, "compress", tmp_path / "m.onnx", "--samples", "2000"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while sorted(os.listdir(tmp_path)) == before and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.strip() == "Error: interrupted; nothing was written"
    assert sorted(os.listdir(tmp_path)) == before


# checks that are missed -------------------------------------------------------------------------------


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


# damaged encodings ------------------------------------------------------------------------------------


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


def test_no_error_of_our_own_is_shown_as_a_traceback(call, model, monkeypatch):
    """What nobody foresaw is one line as well."""

    def fail(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("onnxprune.api.compress.compress", fail)
    code, out, err = call("compress", model)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_a_memory_error_is_one_line(call, model, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("onnxprune.api.compress.compress", fail)
    assert call("compress", model) == (1, "", "Error: not enough memory for this model\n")


def test_inspect_json_has_no_nan(call, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].raw_data = np.full((64, 32), np.nan, np.float32).tobytes()
    code, out, _ = call("inspect", put(tmp_path / "nan.onnx", proto), "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)


# masks and checkpoints --------------------------------------------------------------------------------


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

"""What the loss of encode means on whole models, and its options."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import onnxprune
from onnxprune import cli
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.errors import OptionError, WeightError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import ways
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import conv_net, info, mlp, model, node, normal, tensor
from tests.helpers.running import load, serialise

# whole models ---------------------------------------------------------------------------------------


def networks():
    wide = [
        node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(5)
    uneven = {
        "a": (rng.standard_normal((128, 96)) * np.geomspace(1e-3, 10, 96)).astype(np.float32),
        "b": rng.standard_t(3, (96, 80)).astype(np.float32),
    }
    return {
        "mlp": lambda: mlp((96, 200, 120, 10), seed=3),
        "deep": lambda: mlp((64,) * 7 + (10,), seed=4),
        "conv": conv_net,
        "uneven": lambda: model(wide, [info("x", ["N", 128])], [info("y", ["N", 80])], uneven),
    }


NETWORKS = networks()
network = pytest.mark.parametrize("name", NETWORKS)


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(NETWORKS[name]().SerializeToString())
    return path


def loss_of(before: Model, after: Model, path: str = "") -> float:
    """Squared error over energy, channel by channel: the sum over the weights whose names begin with the path."""
    decoded = {w.name: w for w in find(after)}
    total = 0.0
    for weight in find(before):
        if not weight.name.startswith(path):
            continue
        old, new = (w.array(m).astype(np.float64) for w, m in ((weight, before), (decoded[weight.name], after)))
        if not (old != new).any():
            continue
        channels = np.square(old).sum(weight.in_axes or None, keepdims=True)
        count = np.count_nonzero(old, axis=weight.in_axes or None, keepdims=True)
        mean = np.where(channels > 0, channels / np.maximum(count, 1), 1.0)
        total += float((np.square(old - new) / mean).sum() / (np.square(old) / mean).sum())
    return total


@network
@pytest.mark.parametrize("loss", [0.001, None, 0.1])
def test_the_loss_stays_near_its_budget(name, loss, tmp_path):
    source, out = write(tmp_path, name), tmp_path / "out.onnx"
    result = onnxprune.compress(source, out, **({} if loss is None else {"loss": loss}))
    assert result.ratio > 1.5
    opened = Model.load(out)
    Decode().run(opened)
    assert 0 < loss_of(Model.load(source), opened) <= 1.1 * (0.02 if loss is None else loss)


@network
@pytest.mark.parametrize("prefer", ["size", "speed"])
@pytest.mark.parametrize("keep_zeros", [True, False])
def test_a_larger_loss_never_takes_more_bytes(name, prefer, keep_zeros):
    sizes = []
    for loss in (0.0, 0.005, 0.1):
        opened = load(NETWORKS[name]())
        Encode(values="auto", loss=loss, prefer=prefer, keep_zeros=keep_zeros).run(opened)
        sizes.append(len(serialise(opened)))
    for more, fewer in itertools.pairwise(sizes):
        assert fewer <= more * 1.02 + 64  # the curves estimate


@network
@pytest.mark.parametrize("keep_zeros", [True, False])
def test_no_loss_keeps_every_value(name, keep_zeros):
    opened, before = load(NETWORKS[name]()), load(NETWORKS[name]())
    Encode(values="auto", loss=0.0, keep_zeros=keep_zeros).run(opened)
    Decode().run(opened)
    assert loss_of(before, opened) == 0.0


def branching(widths) -> onnx.ModelProto:
    """A matrix, and behind it an If whose branches hold two matrices each, as wide as given."""

    def branch(name: str, width: int) -> onnx.GraphProto:
        first, second = f"{name}0", f"{name}1"
        nodes = [node("MatMul", ["h", first], [f"{name}h"]), node("MatMul", [f"{name}h", second], [f"{name}y"])]
        held = [tensor(first, normal(64, width, seed=width)), tensor(second, normal(width, 10))]
        return helper.make_graph(nodes, name, [], [info(f"{name}y", ["N", 10])], held)

    choice = node("If", ["flag"], ["y"], then_branch=branch("a", widths[0]), else_branch=branch("b", widths[1]))
    inputs = [info("x", ["N", 32]), info("flag", [], TensorProto.BOOL)]
    return model([node("MatMul", ["x", "w"], ["h"]), choice], inputs, [info("y", ["N", 10])], {"w": normal(32, 64)})


@pytest.mark.parametrize("widths", [(300, 300), (300, 200), (900, 30)])
def test_the_noise_of_branches_that_never_run_together_does_not_add_up(widths):
    proto = branching(widths)
    before, opened = load(proto), load(proto)
    Encode(values="auto", loss=0.05).run(opened)
    Decode().run(opened)
    losses = [loss_of(before, opened, path) for path in ("w", "If_y.then_branch/", "If_y.else_branch/")]
    assert all(losses)
    assert losses[0] + max(losses[1:]) <= 1.2 * 0.05
    assert sum(losses) > 1.1 * 0.05


def test_what_one_run_reads_is_one_way():
    found = [w for w in find(load(branching((30, 40)))) if w.reason is None]
    names = [{found[i].name for i in way} for way in ways(found)]
    branches = [{f"If_y.{side}_branch/{letter}{n}" for n in (0, 1)} for side, letter in (("then", "a"), ("else", "b"))]
    assert sorted(map(sorted, names)) == sorted(sorted({"w"} | branch) for branch in branches)
    alone = [w for w in find(load(mlp((96, 200, 10)))) if w.reason is None]
    assert ways(alone) == [list(range(len(alone)))]


# the command line -----------------------------------------------------------------------------------


def call(*args) -> tuple[int, str]:
    """(exit code, the line) of a call that fails on purpose."""
    found = CliRunner().invoke(cli.cli, [str(a) for a in args], catch_exceptions=True)
    error = found.exception
    return getattr(error, "exit_code", found.exit_code), str(error)


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path, "mlp")


@pytest.mark.parametrize("word", ["compress", "encode"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--values", "int8", "--values", "half"], ["int8", "half"]),
        (["--values", "int8", "--values", "int8"], ["int8"]),
        (["--values", "nothing*=int8"], ["nothing*"]),
        (["--values", "fc9.weight=int8"], ["fc9.weight"]),
        (["--values", "=int8"], ["=int8"]),
        (["--values", "fc*=int9"], ["int9"]),
        (["--values", "fc*="], ["values"]),
        (["--values", "shared:1"], ["shared:1"]),
        (["--values", "shared:9"], ["shared:9"]),
        (["--values", "shared:x"], ["shared:x"]),
        (["--values", "int8:1"], ["int8:1"]),
        (["--values", "fc*=int8:9"], ["int8:9"]),
        (["--values", ""], ["values"]),
        (["--values", "auto", "--loss", "-1"], ["loss", "-1"]),
        (["--values", "auto", "--loss", "nan"], ["loss", "nan"]),
        (["--values", "auto", "--loss", "inf"], ["loss", "inf"]),
        (["--values", "auto", "--loss", "-0.001"], ["loss"]),
        (["--prefer", "x"], ["prefer", "x"]),
        (["--prefer", ""], ["prefer"]),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(word, options, says, source, tmp_path):
    code, line = call(word, source, "-o", tmp_path / "out.onnx", *options)
    assert code == 1
    assert all(part in line for part in says), line
    assert "defect" not in line
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name]


def test_a_form_for_some_weights_and_one_for_the_rest(source, tmp_path):
    out = tmp_path / "out.onnx"
    values = ["shared:4", "fc1*=int8", "*.weight=shared:2", "fc0.weight=half"]
    onnxprune.encode(source, out, values=values)
    stored = {p.name: p.stored_as for p in encoded_weights(Model.load(out))}
    assert stored["fc0.weight"] == "half"
    assert stored["fc1.weight"] == "shared, 4 levels"
    assert onnxprune.compress(source, tmp_path / "skip.onnx", values="int8", skip=["fc0*"], sparsity=0.5).ratio > 1
    with pytest.raises(OptionError, match="contradict"):
        onnxprune.encode(source, tmp_path / "no.onnx", values=["int8", "half"])
    with pytest.raises(WeightError, match="fc7"):
        onnxprune.encode(source, tmp_path / "no.onnx", values=["int8", "fc7=half"])


@pytest.mark.parametrize("entry", ["fc0.weight", "=1", "fc0.weight=x", "fc0.weight=-1", "fc0.weight=nan", "a=inf"])
def test_an_importance_is_a_pattern_and_a_number(entry):
    with pytest.raises(OptionError, match="importance"):
        Encode(values="auto", importance=(entry,))


def test_what_matters_loses_less(source):
    before = Model.load(source)
    lost = []
    for number in (100, 1, 0.01):
        after = Model.load(source)
        Encode(values="auto", loss=0.05, importance=("fc*=7", f"fc0.*={7 * number}")).run(after)
        Decode().run(after)
        lost.append(loss_of(before, after, "fc0.weight"))
    assert lost[0] < lost[1] < lost[2]


def test_a_tolerance_halves_the_loss_until_it_fits(source, tmp_path):
    loose = onnxprune.compress(source, tmp_path / "loose.onnx", loss=0.2)
    tight = onnxprune.compress(source, tmp_path / "tight.onnx", loss=0.2, tolerance=25.0, metric="sqnr")
    assert tight.output.bytes > loose.output.bytes
    assert min(o["sqnr_db"] for o in tight.deviation.outputs) >= 25
    assert max(o["sqnr_db"] for o in loose.deviation.outputs) < 25


@pytest.mark.parametrize("options", [[], ["--sparsity", "0.9", "--values", "int8"]])
def test_a_tolerance_that_is_never_kept_writes_nothing(options, tmp_path):
    source = write(tmp_path, "mlp")
    asked = ["--loss", "1", "-o", tmp_path / "out.onnx", "--metric", "sqnr", "--tolerance", "200", *options]
    code, line = call("compress", source, *asked)
    assert code == 3
    assert "tolerance" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name]

"""The HTML report of hostile names and odd numbers: a sound page all the same, byte for byte the same."""

from __future__ import annotations

import builtins
import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli import cli
from onnxprune.errors import ModelError, OptionError, OutputError
from onnxprune.report.html import pictures
from onnxprune.report.html import write as html
from tests.helpers.builders import info, matmul, model, node
from tests.helpers.running import put
from tests.report.pages import HOSTILE, Page, call, curves_of, hostile, read


def test_hostile_names(tmp_path):
    path = hostile(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.metadata_props.add(key="onnxprune.passes", value="\x02</pre><script>document.title='broken'</script>")
    path.write_bytes(proto.SerializeToString())
    names = [row["name"] for row in onnxprune.inspect(path)]
    curves_of(*names).save(tmp_path / "s.json")
    html.write_report(path, tmp_path / "a.html", path, sensitivity=tmp_path / "s.json")
    assert "\\x02</pre><script>" in read(tmp_path / "a.html").text
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.5, strip=False)
    result.notes.append(HOSTILE[0])
    html.write_report(result, tmp_path / "r.html", sensitivity=tmp_path / "s.json", command=" ".join(HOSTILE))
    page = read(tmp_path / "r.html")
    raw = (tmp_path / "r.html").read_text("utf-8")
    assert not {"\x00", "\x01", "\x02", "\x1b", "\u202e"} & set(raw)
    titles = {attrs.get("title") for _, attrs in page.tags}
    for name in names:
        assert pictures.shortened(name, 1000) in titles
    drawn = pictures.bars(names, None, [1] * len(names), "label")
    shown = Page(drawn).text
    for name in names:
        assert " ".join(pictures.shortened(name, 26).split()) in shown


def test_outputs_that_are_not_finite(tmp_path):
    huge = np.full((64, 32), 3e38, np.float32)
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Sub", ["y", "y"], ["z"])]
    outputs = [info("y", ["N", 32]), info("z", ["N", 32])]
    path = put(tmp_path / "m.onnx", model(nodes, [info("x", ["N", 64])], outputs, {"w": huge}))
    other = put(
        tmp_path / "o.onnx", model(nodes, [info("x", ["N", 64])], outputs, {"w": np.ones((64, 32), np.float32)})
    )
    call("report", other, path, "-o", tmp_path / "r.html")
    page = read(tmp_path / "r.html")
    assert "NaN or Inf stand in other places" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_values_that_are_not_finite(tmp_path):
    array = np.linspace(-3, 3, 64 * 32, dtype=np.float32).reshape(64, 32)
    array[0, :4] = np.nan, np.inf, -np.inf, 0
    path = put(tmp_path / "m.onnx", matmul(array))
    html.write_report(path, tmp_path / "r.html", weights=["w"])
    assert "NaN or infinite: 3" in read(tmp_path / "r.html").text


@pytest.mark.parametrize("weights", [{}, {"b": np.ones(4, np.float32)}])
def test_nothing_to_prune(tmp_path, weights):
    nodes = [node("Add", ["x", "b"], ["y"])] if weights else [node("Relu", ["x"], ["y"])]
    path = put(tmp_path / "m.onnx", model(nodes, [info("x", ["N", 4])], [info("y", ["N", 4])], weights))
    call("compress", path, "-o", tmp_path / "o.onnx", "--report", tmp_path / "r.html")
    read(tmp_path / "r.html")
    call("report", path, "-o", tmp_path / "s.html")
    assert ("has no weights" in read(tmp_path / "s.html").text) == (not weights)


def test_every_kind_of_model(tmp_path, case):
    """Constant nodes, bodies, functions, half types, quantised weights: compared and alone."""
    proto, _ = case
    path = put(tmp_path / "m.onnx", proto)
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.5)
    html.write_report(result, tmp_path / "r.html")
    read(tmp_path / "r.html")
    html.write_report(tmp_path / "o.onnx", tmp_path / "s.html")
    read(tmp_path / "s.html")


def test_the_same_input_gives_the_same_bytes(tmp_path, source, monkeypatch):
    import matplotlib

    result = onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.5)
    html.write_report(result, tmp_path / "a.html", command="c")
    matplotlib.rcParams["font.size"] = 40
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")
    html.write_report(result, tmp_path / "b.html", command="c")
    assert matplotlib.rcParams["font.size"] == 40
    matplotlib.rcdefaults()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_there_is_one_line_and_nothing_is_written(tmp_path, source, monkeypatch, missing):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ImportError(f"No module named '{missing}'", name=missing)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    before = set(tmp_path.iterdir())
    for line in (["compress", source, "--report", tmp_path / "r.html"], ["report", source, "-o", tmp_path / "r.html"]):
        result = CliRunner().invoke(cli, [str(a) for a in line])
        assert isinstance(result.exception, OptionError)
        assert str(result.exception) == f"the HTML report needs {missing}: pip install 'onnxprune[report]'"
    assert set(tmp_path.iterdir()) == before


def test_requests_that_make_no_sense(tmp_path, source):
    before = source.read_bytes()
    for bad, kind in (
        (["report", source, "-o", source], OutputError),
        (["report", source, "-o", tmp_path / "none" / "r.html"], OutputError),
        (["report", source, "--samples", "3", "-o", tmp_path / "r.html"], OptionError),
        (["report", tmp_path / "none.onnx", "-o", tmp_path / "r.html"], ModelError),
        (["report", source, tmp_path / "none.onnx", "-o", tmp_path / "r.html"], ModelError),
        (["compress", source, "--report", source], OutputError),
        (["compress", source, "--report", tmp_path / "r", "--json", tmp_path / "r"], OutputError),
    ):
        result = CliRunner().invoke(cli, [str(a) for a in bad])
        assert isinstance(result.exception, kind), (bad, result.output, result.exception)
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == before

"""The HTML report: what it says is the result."""

from __future__ import annotations

import re

import onnx
import pytest

import onnxprune
from onnxprune.errors import CurvesError, WeightError
from onnxprune.report.html import pictures
from onnxprune.report.html import write as html
from onnxprune.report.terminal.tables import percent, size
from tests.helpers.builders import mlp
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import put
from tests.report.pages import call, curves_of, read


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_the_numbers_are_those_of_the_result(tmp_path, name):
    data, out = DIGITS, tmp_path / "o.onnx"
    result = onnxprune.compress(LENETS[name], out, sparsity=0.9, data=data, samples=20)
    html.write_report(result, tmp_path / "r.html", command="a --command")
    page = read(tmp_path / "r.html")
    numbers = [
        result.input.bytes, result.output.bytes, result.input.gzip_bytes, result.output.gzip_bytes,
        result.parameters["after"], result.parameters["nonzero"],
    ]  # fmt: skip
    assert page.data[:6] == [str(n) for n in numbers]
    assert f"{result.ratio:.2f}x smaller" in page.text
    if result.cost is not None:
        assert [str(result.cost.flops[when]) for when in ("before", "after")] == page.data[6:8]
        assert [str(result.cost.latency_ms[when]) for when in ("before", "after")] == page.data[8:10]
    (output,) = result.deviation.outputs
    for shown in (f"{output['cosine']:.5f}", f"{output['sqnr_db']:.1f} dB", f"{100 * output['top1_agreement']:.2f} %"):
        assert shown in page.text
    for weight in result.weights:
        (row,) = (row for row in page.rows if row[0] == weight.name and len(row) == 12)
        assert [int(n) for n in re.findall(r"\d+", row[3])] in (weight.shape, weight.shape + weight.shape_after)
        assert row[4:8] == [
            f"{weight.total:,}", percent(weight.zeros, weight.total),
            "" if weight.requested is None else f"{100 * weight.requested:.1f} %", weight.encoding,
        ]  # fmt: skip
        assert row[8:10] == [size(weight.bytes_before), size(weight.bytes_after)]
    for cut in result.removed:
        assert [cut.name, *(f"{n:,}" for n in (cut.axis, cut.before, cut.after, len(cut.indices)))] in page.rows
    for step in result.passes:
        assert step in page.text
    assert "a --command" in page.text
    for release in result.versions.values():
        assert release in page.text


def test_two_files_say_what_the_result_says(tmp_path, source):
    result = onnxprune.prune(source, tmp_path / "o.onnx", sparsity=0.75)
    html.write_report(result, tmp_path / "a.html")
    call("report", tmp_path / "o.onnx", source, "-o", tmp_path / "b.html")
    a, b = read(tmp_path / "a.html"), read(tmp_path / "b.html")
    assert a.data == b.data
    assert "75.0 %" in b.text
    assert "is a bias: 2" in b.text
    assert str(result.deviation.samples) in b.text


def test_what_the_bytes_of_a_file_are(tmp_path, source):
    proto = onnx.load(source)
    proto.graph.node[0].doc_string = "a stack trace " * 2000
    result = onnxprune.prune(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", sparsity=0.75)
    assert result.contents["metadata"] > 28_000
    html.write_report(result, tmp_path / "a.html")
    html.write_report(tmp_path / "o.onnx", tmp_path / "b.html")
    shown = " , ".join(f"{what} {size(count)}" for what, count in result.contents.items() if count)
    for name in ("a.html", "b.html"):
        assert f"The file holds {shown} . --strip-metadata drops the metadata." in read(tmp_path / name).text
    onnxprune.strip(tmp_path / "m.onnx", tmp_path / "s.onnx", strip_metadata=True)
    html.write_report(tmp_path / "s.onnx", tmp_path / "s.html")
    assert "--strip-metadata" not in read(tmp_path / "s.html").text


def test_report_of_compress(tmp_path, source, monkeypatch):
    monkeypatch.setattr("sys.argv", ["onnxprune", "compress", "m.onnx", "--set", "fc*=0.5"])
    call("compress", source, "--sparsity", "0.5", "--report", tmp_path / "r.html", "-q")
    page = read(tmp_path / "r.html")
    assert "onnxprune compress m.onnx --set 'fc*=0.5'" in page.text
    assert page.data[1] == str((tmp_path / "m.pruned.onnx").stat().st_size)
    before = source.stat().st_size
    call("compress", source, "-o", source, "--in-place", "--sparsity", "0.5", "--report", tmp_path / "i.html")
    assert read(tmp_path / "i.html").data[:2] == [str(before), str(source.stat().st_size)]


@pytest.mark.parametrize("encoded", [False, True])
def test_a_single_model(tmp_path, source, encoded):
    path = tmp_path / "o.onnx" if encoded else source
    if encoded:
        onnxprune.compress(source, path, sparsity=0.9)
    call("report", path, "-o", tmp_path / "r.html")
    page = read(tmp_path / "r.html")
    rows = onnxprune.inspect(path)
    total, zeros = (sum(row[key] for row in rows) for key in ("total", "zeros"))
    assert page.data[0] == str(path.stat().st_size)
    assert page.data[2:4] == [str(total), str(total - zeros)]
    assert "compared with" not in page.text
    assert "Deviation" not in page.text
    assert all(row["encoding"] in page.text for row in rows)


def test_sensitivity_and_cost(tmp_path, source):
    curves_of("fc0.weight", "fc1.weight").save(tmp_path / "s.json")
    html.write_report(source, tmp_path / "r.html", sensitivity=tmp_path / "s.json", cost=True)
    page = read(tmp_path / "r.html")
    assert "top1 $x$ <b> with one layer at a time" in page.text
    assert "top1 $x$ <b> against sparsity" in {attrs.get("aria-label") for _, attrs in page.tags}
    assert "MFLOP ms act % FLOP %" in page.text
    (first, *_) = onnxprune.costs(source).layers
    assert first.weights == ("fc0.weight",)
    assert f"{first.flops / 1e6:.4g}" in page.text
    assert f"{100 * first.flop_share:.4g}" in page.text
    curves_of("other").save(tmp_path / "s.json")
    with pytest.raises(CurvesError, match="of another model"):
        html.write_report(source, tmp_path / "r.html", sensitivity=tmp_path / "s.json")


@pytest.mark.parametrize("lower", [False, True])
def test_the_most_sensitive_layers_come_first(lower):
    ranked = [curve.name for curve in pictures.most_sensitive(curves_of("a", "b", "c", lower=lower))]
    assert ranked == (["a", "b", "c"] if lower else ["c", "b", "a"])


def test_chosen_weights(tmp_path, source):
    call("report", source, "-o", tmp_path / "r.html", "--weights", "fc1.*")
    page = read(tmp_path / "r.html")
    assert [a.get("title") for t, a in page.tags if t == "h3"] == ["fc1.weight", "fc1.bias"]
    with pytest.raises(WeightError, match="no weight matches 'none'"):
        html.write_report(source, tmp_path / "r.html", weights=["none"])


def test_at_most_twelve_weights_are_drawn(tmp_path):
    path = put(tmp_path / "m.onnx", mlp(sizes=(20,) * 40))
    html.write_report(path, tmp_path / "r.html")
    page = read(tmp_path / "r.html")
    assert sum(tag == "h3" for tag, _ in page.tags) == 12
    assert "Drawn: 12 of 78 weights" in page.text
    assert "(58 smaller)" in page.text

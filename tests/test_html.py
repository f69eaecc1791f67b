"""The HTML report: what it says is the result, whatever the names are, and the same input gives the same bytes."""

from __future__ import annotations

import builtins
import re
import struct
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import onnxprune
from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.cli import cli
from onnxprune.errors import CurvesError, ModelError, OptionError, OutputError, WeightError
from onnxprune.pipeline.change import Removed
from onnxprune.report.html import pictures, statistics
from onnxprune.report.html import write as html
from onnxprune.report.terminal.tables import percent, size
from tests.helpers.builders import info, matmul, mlp, model, node
from tests.helpers.chromium import CHROMIUM, Browser
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import put

HOSTILE = [
    "</script><script>document.title='broken'</script>", "<img src=x onerror=\"document.title='broken'\">",
    "{{ 7*7 }}{% raw %}", "$\\frac{1}{2}$ ^_", "'\"`&amp;", "]]><!-- -->", "\x1b[31m\nred\x00", "_begins",
    "权重/重み/🙂", "#010101 style=\"#010101\"", "x" * 300, "a\u202eb",
]  # fmt: skip
VOID = {"meta", "link", "img", "br", "path", "use", "rect", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart: every tag is closed in order, and no element has two attributes of one name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: list[str] = []  # of <data value>
        self.rows: list[list[str]] = []  # of all tables
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert len({key for key, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "data":
            self.data.append(dict(attrs)["value"])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(path: Path) -> Page:
    """The page, which loads nothing and runs nothing but its own script."""
    page = Page(path.read_text("utf-8"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        for key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
            assert value is None or not value.startswith("#") or value[1:] in ids
        assert not any(key.startswith("on") for key in attrs), attrs
        for url in re.findall(r"url\(([^)]*)\)", attrs.get("style") or "" + (attrs.get("clip-path") or "")):
            assert url.strip("'\"").startswith("#")
        assert tag not in ("iframe", "object", "embed", "base", "form")
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert "@import" not in path.read_text("utf-8")
    return page


def call(*args, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=code != 0)
    assert result.exit_code == code, result.output
    return str(result.exception) if code else result.output


@pytest.fixture
def source(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp(sizes=(64, 128, 10)))


def curves_of(*names: str, lower: bool = False) -> Curves:
    levels = (0.5, 0.9, 0.2)
    layers = [Curve(n, "gemm", 9, tuple(CurvePoint(s, 90 - 9 * s * i) for s in levels)) for i, n in enumerate(names)]
    return Curves("0" * 64, "top1 $x$ <b>", lower, 90.5, 200, "weights", (*layers, Curve("none", "gemm", 1, ())))


def hostile(path: Path) -> Path:
    """A chain of matrices, and outputs, with names that would like to be something else."""
    nodes, weights, last = [], {}, "x"
    for number, name in enumerate(n.replace("\x00", "\x01") for n in HOSTILE):
        weights[name] = np.random.default_rng(number).standard_normal((20, 20)).astype(np.float32)
        nodes.append(node("MatMul", [last, name], [f"h{number}"]))
        last = f"h{number}"
    nodes[-1].output[0] = output = f"{HOSTILE[0]} out"
    return put(path, model(nodes, [info("x", ["N", 20])], [info(output, ["N", 20])], weights))


# what the page says -----------------------------------------------------------------------------------


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


# what could go wrong ----------------------------------------------------------------------------------


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
    assert "differs in shape or finiteness" in page.text
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
        (["compress", source, "--report", tmp_path / "r", "--json", tmp_path / "r"], OptionError),
    ):
        result = CliRunner().invoke(cli, [str(a) for a in bad])
        assert isinstance(result.exception, kind), (bad, result.output, result.exception)
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == before


# numbers behind the pictures --------------------------------------------------------------------------

ANY = arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32) | st.just(0.0))


@given(st.lists(ANY, min_size=1, max_size=2))
def test_a_histogram_counts_every_entry_once(found):
    counted = statistics.histogram(found)
    for number, array in enumerate(found):
        finite = array[np.isfinite(array) & (array != 0)]
        assert counted.zeros[number] == (array == 0).sum()
        assert counted.strange[number] == (~np.isfinite(array)).sum()
        assert counted.counts[number].sum() == finite.size
        below = statistics.BINS // 2  # bins left of the middle one, and those right of it, hold one sign each
        assert counted.counts[number][:below].sum() <= (finite < 0).sum()
        assert counted.counts[number][below + 1 :].sum() <= (finite > 0).sum()
    everything = np.concatenate(found)
    assert counted.limit == np.abs(everything[np.isfinite(everything)]).max(initial=0)


def test_a_histogram_is_numpys():
    values = np.random.default_rng(0).standard_normal(500_000)
    counted = statistics.histogram([values])
    expected = np.histogram(values, statistics.BINS, (-counted.limit, counted.limit))[0]
    assert np.abs(counted.counts[0] - expected).max() <= 1, "an edge may round to either side"


@given(st.integers(1, 900), st.integers(1, 1700), st.integers(0, 2**32 - 1))
def test_a_pattern_keeps_the_count(rows, columns, seed):
    kept = np.random.default_rng(seed).random((rows, columns)) < 0.1
    found = statistics.pattern(kept)
    tall, wide = found.block
    heights = np.diff(np.arange(0, rows, tall), append=rows)
    widths = np.diff(np.arange(0, columns, wide), append=columns)
    assert found.shares.shape == (len(heights), len(widths))
    assert (found.shares * np.outer(heights, widths)).sum() == pytest.approx(kept.sum(), rel=1e-4, abs=1e-4)
    assert found.shares.shape <= (400, 800)
    if found.block == (1, 1):
        assert np.array_equal(found.shares, kept)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_what_was_cut_out_is_put_back_where_it_was(rows, columns, data):
    full = np.random.default_rng(0).random((rows, columns)) < 0.5
    boundaries, left = [], full
    for axis, size_ in enumerate((rows, columns)):
        gone = sorted(data.draw(st.sets(st.integers(0, size_ - 1), max_size=size_ - 1)))
        boundaries.append(Removed("w", axis, size_, size_ - len(gone), gone))
        left = np.delete(left, gone, axis)
        full[(slice(None),) * axis + (gone,)] = False
    assert np.array_equal(statistics.put_back(left, "w", [*boundaries, Removed("other", 0, 99, rows, [])]), full)


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 20)), elements=st.floats(0, 1, width=32)))
def test_a_png_holds_the_shares(shares):
    data = b64decode(pictures.png(shares).removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    width, height, bits = struct.unpack(">IIB", chunks[b"IHDR"][:9])
    assert (height, width) == shares.shape
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    digits = np.unpackbits(lines[:, 1:], axis=1)[:, : width * bits].reshape(height, width, bits)
    opacity = np.array(list(chunks[b"tRNS"]))[digits @ (1 << np.arange(bits)[::-1])] / 255
    assert np.abs(opacity - shares).max() <= 1 / 15 + 1e-6
    assert np.array_equal(opacity == 0, shares == 0)


@pytest.mark.parametrize(
    ("shape", "between", "expected"),
    [
        (["N", 1, 28, 28], "Flatten", (28, 28)),
        (["N", 3, 16, 16], "Flatten", (16, 16)),
        (["N", 768], "Relu", None),
        (["N", 16, 16, 3], "Transpose", None),
    ],
)
def test_pixels_of_an_image_are_told_from_the_graph(tmp_path, shape, between, expected):
    size_ = int(np.prod(shape[1:]))
    array = np.random.default_rng(0).standard_normal((size_, 32)).astype(np.float32)
    array[np.abs(array) < 1] = 0
    nodes = [node(between, ["x"], ["h"]), node("Flatten", ["h"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    path = put(tmp_path / "m.onnx", model(nodes, [info("x", shape)], [info("y", ["N", 32])], {"w": array}))
    if between == "Transpose":
        nodes[0].attribute.append(onnx.helper.make_attribute("perm", [0, 2, 1, 3]))
    from onnxprune.api.result import Deviation
    from onnxprune.report.html.contents import gather

    (found,) = gather(path, None, None, Deviation("none"), None, (), {}, tmp_path).sketches
    if expected is None:
        assert found.image is None
    else:
        counts = (array != 0).sum(1).reshape(shape[1], *expected).sum(0)
        assert np.array_equal(found.image, counts)


@given(st.text(max_size=60), st.integers(5, 40))
def test_shortened(name, room):
    shown = pictures.shortened(name, room)
    assert len(shown) <= room
    assert shown.isprintable()
    if name.isprintable() and len(name) <= room:
        assert shown == name


# in a browser -----------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(tmp_path):
    """No errors, nothing cut off on a telephone or a desk, in light and dark; the table sorts; names stay names."""
    path = hostile(tmp_path / "m.onnx")
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.5, strip=False)
    names = [row["name"] for row in onnxprune.inspect(path)]
    curves_of(*names).save(tmp_path / "s.json")
    page = tmp_path / "r.html"
    html.write_report(result, page, sensitivity=tmp_path / "s.json")
    colours = set()
    with Browser() as browser:
        for width in (375, 1440):
            for dark in (False, True):
                browser.open(page, width, dark=dark)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
                assert browser.evaluate(
                    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.table') && "
                    "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
                ) == []  # fmt: skip
                colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert "broken" not in browser.evaluate("document.title")
        keys = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => +r.cells[9].dataset.value)"
        browser.evaluate("document.querySelectorAll('table.sortable th')[9].querySelector('button').click()")
        first = browser.evaluate(keys)
        assert first == sorted(first, reverse=True)
        assert len(set(first)) > 1
        browser.evaluate("document.querySelectorAll('table.sortable th')[9].querySelector('button').click()")
        assert browser.evaluate(keys) == sorted(first)
        assert browser.problems == []
    assert len(colours) == 2

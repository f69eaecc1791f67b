"""The HTML report taken apart, and models that try to break it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.cli import cli
from tests.helpers.builders import info, model, node
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

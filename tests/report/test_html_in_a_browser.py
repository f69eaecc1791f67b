"""The HTML report in Chromium."""

from __future__ import annotations

import pytest

import onnxprune
from onnxprune.report.html import write as html
from tests.helpers.chromium import CHROMIUM, Browser
from tests.report.pages import curves_of, hostile


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

"""The page in Chromium: it answers, with one thread and with several, on a telephone and on a desk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.demo import web_runtime
from onnxprune.demo.server import server
from onnxprune.errors import OptionError
from tests.helpers.builders import matmul
from tests.helpers.chromium import CHROMIUM, Browser
from tests.helpers.repository import MODELS
from tests.helpers.running import put

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
_SECONDS = 120

CUT = """[...document.querySelectorAll("main *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 80))"""
DRAW = """(() => {
  const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
  canvas.setPointerCapture = () => {};
  const at = (name, x, y) => canvas.dispatchEvent(new PointerEvent(name, {
    clientX: box.left + x * box.width, clientY: box.top + y * box.height, buttons: 1 }));
  document.getElementById("clear").click();
  at("pointerdown", 0.35, 0.2);
  at("pointermove", 0.65, 0.2);
  at("pointermove", 0.45, 0.8);
})()"""


class Plain(SimpleHTTPRequestHandler):
    """A server as anybody has it: its pages have one thread."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(made: ThreadingHTTPServer) -> Iterator[str]:
    with made as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}/"
        finally:
            serving.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    try:
        web_runtime.bring(folder)
    except OptionError as error:
        pytest.skip(str(error))
    return folder


def wait(browser: Browser, condition: str) -> None:
    end = time.monotonic() + _SECONDS
    while not browser.evaluate(condition):
        assert time.monotonic() < end, browser.evaluate("document.getElementById('status').textContent")
        time.sleep(0.1)


def text(browser: Browser, name: str) -> str:
    return browser.evaluate(f"document.getElementById('{name}').innerText")


@pytest.mark.parametrize("threads", [True, False])
def test_a_drawn_digit_is_read(package: Path, tmp_path: Path, threads: bool) -> None:
    onnxprune.write_demo(MODELS / "lenet-5.onnx", tmp_path, runtime=package)
    plain = partial(Plain, directory=str(tmp_path))
    made = server(tmp_path) if threads else ThreadingHTTPServer(("127.0.0.1", 0), plain)
    with served(made) as home, Browser(home=home) as browser:
        for width in (375, 1440):
            browser.open(home, width)
            wait(browser, "document.documentElement.dataset.ready === 'yes'")
            assert browser.evaluate("crossOriginIsolated") == threads
            browser.evaluate(DRAW)
            wait(browser, "document.querySelector('#outputs li b')?.textContent === '7'")
            browser.evaluate("document.getElementById('compare').click()")
            wait(browser, "document.getElementById('compare').hidden")
            assert "the same class" in text(browser, "difference")
            assert "1.73 MB" in text(browser, "measures")
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate(CUT) == []
        assert browser.problems == []


def test_arrays_are_made_up_and_taken_from_files(package: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", matmul())
    onnxprune.write_demo(path, tmp_path / "page", path, runtime=package)
    (given,) = json.loads((tmp_path / "page" / "demo.json").read_text())["inputs"]
    np.save(tmp_path / "page" / "x.npy", np.zeros(given["shape"], np.float32))
    np.save(tmp_path / "page" / "wrong.npy", np.zeros(given["shape"], np.float64))
    drop = """(async () => {
      const data = new DataTransfer();
      data.items.add(new File([await (await fetch("NAME")).arrayBuffer()], "NAME"));
      document.querySelector(".array").dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
    })()"""
    with served(server(tmp_path / "page")) as home, Browser(home=home) as browser:
        browser.open(home, 1440)
        wait(browser, "document.documentElement.dataset.ready === 'yes'")
        assert "y: float32" in text(browser, "outputs")
        browser.evaluate(drop.replace("NAME", "x.npy"))
        wait(browser, "document.querySelector('#outputs li span').textContent === '0'")
        browser.evaluate(drop.replace("NAME", "wrong.npy"))
        wait(browser, "document.getElementById('status').classList.contains('bad')")
        assert f"'{given['name']}' takes float32, the file holds float64" in text(browser, "status")
        assert browser.problems == []

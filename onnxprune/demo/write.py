"""Write the page: a folder that any web server can serve."""

from __future__ import annotations

import contextlib
import json
import shutil
from importlib.resources import files
from pathlib import Path

from onnxprune.api.compress import compress
from onnxprune.api.remote import unpacked
from onnxprune.core.files import PathLike
from onnxprune.demo import web_runtime
from onnxprune.demo.contents import described
from onnxprune.errors import OutputError
from onnxprune.model.model import Model

PAGE = ("index.html", "demo.css", "demo.js")
MODEL, ORIGINAL, FACTS, SAMPLE = "model.onnx", "original.onnx", "demo.json", "sample.bin"
TARGET = web_runtime.PACKAGE


def write_demo(
    model: PathLike,
    out: PathLike,
    original: PathLike | None = None,
    *,
    data: PathLike | None = None,
    runtime: PathLike | None = None,
) -> Path:
    """Write a folder with a page that runs a model in the browser, and its original beside it when asked to.

    The page loads nothing from elsewhere, and needs a web server: browsers read no models from `file:`. A server that
    sends `Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp` gives it threads.

    Args:
        model: a model, packed or not. Without an original it is that, and is compressed for onnxruntime-web first.
        out: the folder; files of a page in it are replaced.
        original: what the model was made of.
        data: samples as for `transform`, of which the page starts with the first; None makes one up.
        runtime: the unpacked npm package onnxruntime-web, or its folder `dist`; None has npm fetch it.

    Returns:
        The page's `index.html`.

    Raises:
        OptionError: there is no onnxruntime-web, or no input could be made up.
        OutputError: the folder cannot be written.
        OnnxPruneError: a model cannot be read, compressed or run.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is not a folder")
    with contextlib.ExitStack() as stack:
        given = Path(stack.enter_context(unpacked(model)))
        source = given if original is None else Path(stack.enter_context(unpacked(original)))
        inputs, sample = described(source, None if data is None else Path(data))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            version = web_runtime.bring(folder, None if runtime is None else Path(runtime))
            _single(source, folder / ORIGINAL)
            if original is None:
                compress(folder / ORIGINAL, folder / MODEL, target=(TARGET,))
            else:
                _single(given, folder / MODEL)
            (folder / SAMPLE).write_bytes(sample)
            facts = {
                "title": Path(str(model)).name,
                "runtime": version,
                "bytes": {"model": _size(folder / MODEL), "original": _size(folder / ORIGINAL)},
                "inputs": inputs,
            }
            (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            for name in PAGE:
                (folder / name).write_bytes(files("onnxprune.demo").joinpath("page", name).read_bytes())
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder / "index.html"


def _size(path: Path) -> int:
    return path.stat().st_size


def _single(source: Path, target: Path) -> None:
    """A model in one file, external data included."""
    model = Model.load(source)
    if model.companions():
        target.write_bytes(model.to_bytes())
    else:
        shutil.copyfile(source, target)

"""Which models a request for several of them means, and where the result of each goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.core.files import PathLike, is_url
from onnxprune.errors import ModelError, OptionError, OutputError


@dataclass
class Gathered:
    """Models in the order in which they were given, those of a folder by name.

    Attributes:
        pairs: (model, output).
        notes: what was left out.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(models: Sequence[PathLike], folder: PathLike) -> Gathered:
    """Files, and all *.onnx below folders, with the places below `folder` that they have below their folder.

    What is hidden is left out, and so is `folder` where it lies in one of the folders.

    Raises:
        ModelError: a path is not there or cannot be read, or a folder holds no model.
        OptionError: two models would be written to one place, or a path is a URL or empty.
        OutputError: an output would be an input, or lie among the inputs.
    """
    for path in (*models, folder):
        if is_url(path):
            raise OptionError(f"{path}: models at URLs are compressed one at a time")
        if not os.fspath(path):
            raise OptionError("an empty name is no model and no folder")
    found, given, out = Gathered(), [Path(model) for model in models], Path(folder)
    home = real(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is not a folder: several models need one")
    sources: dict[Path, Path] = {}
    for path in given:
        for source, target in _below(path, out, home, found.notes):
            other = sources.setdefault(target, source)
            if other is source:
                found.pairs.append((source, target))
            elif real(other) == real(source):
                found.notes.append(f"{source} was given twice and is compressed once")
            else:
                raise OptionError(f"{other} and {source} would both be written to {target}: compress them apart")
    inputs = {real(source) for source, _ in found.pairs}
    folders = [f for f in (real(path) for path in given if path.is_dir()) if not home.is_relative_to(f)]
    for _, target in found.pairs:
        place = real(target)
        if place in inputs or any(place.is_relative_to(folder) for folder in folders):
            raise OutputError(f"{target} would lie among the inputs: choose another folder for the outputs")
    return found


def real(path: Path) -> Path:
    """The path without links; unlike Path.resolve it bears links in a circle."""
    return Path(os.path.realpath(path))


def _below(path: Path, out: Path, home: Path, notes: list[str]) -> Iterator[tuple[Path, Path]]:
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not is_there:
        raise ModelError(f"cannot read {path}: no such file or folder")
    if not is_folder:
        yield path, out / path.name
        return
    if real(path) == home:
        raise OutputError(f"{out} is an input as well: choose another folder for the outputs")
    files = list(_walk(path, home, (), notes))
    if not files:
        raise ModelError(f"{path} holds no .onnx file")
    for file in files:
        yield file, out / file.relative_to(path)


def _walk(folder: Path, home: Path, above: tuple[Path, ...], notes: list[str]) -> Iterator[Path]:
    """Links to folders are followed, unless they lead back to a folder that they lie in."""
    here = real(folder)
    if here == home:
        return
    if here in above:
        notes.append(f"{folder} is a link back to {here} and is not followed")
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):  # unlike Path.is_dir it says no to a link in a circle
            yield from _walk(path, home, (*above, here), notes)
        elif name.endswith(".onnx"):
            yield path

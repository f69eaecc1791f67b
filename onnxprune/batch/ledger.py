"""What a folder of outputs remembers, so that a rerun skips what is done: a line of JSON for each finished output.

Lines are appended as outputs are finished, the last one for an output counts, and a line that is torn or of another
version is an output that is made again. Opening the ledger writes it anew without what does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.core.files import alone_in, staged, write
from onnxprune.errors import OutputError

NAME = ".onnxprune.jsonl"
VERSION = 1


@dataclass(frozen=True)
class Record:
    """A finished output.

    Attributes:
        key: the digest of all that it depends on.
        files: names beside each other -> SHA-256: the model, and its external data.
        result: the facts of its `Result`.
    """

    key: str
    files: dict[str, str]
    result: dict[str, Any]


class Ledger:
    """The records of a folder by output, a path relative to the folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._folder = folder
        self._records = dict(_read(self._path))
        with staged(self._path) as place:
            write(place, [_line(output, record) for output, record in self._records.items()])

    def get(self, output: Path) -> Record | None:
        """What is remembered of an output."""
        return self._records.get(self._name(output))

    def add(self, output: Path, record: Record) -> None:
        """An output is finished: it is in place."""
        try:
            with self._path.open("ab") as file:
                file.write(_line(self._name(output), record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error

    def _name(self, output: Path) -> str:
        return output.relative_to(self._folder).as_posix()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """The ledger of a folder, made where there is none; no other process may open it meanwhile.

    Raises:
        OutputError: the folder is in use or cannot be written.
    """
    with alone_in(folder):
        yield Ledger(folder)


def _line(output: str, record: Record) -> bytes:
    return json.dumps({"version": VERSION, "output": output} | vars(record)).encode() + b"\n"


def _read(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            held = json.loads(line)
            if held["version"] == VERSION:
                yield str(held["output"]), Record(str(held["key"]), dict(held["files"]), dict(held["result"]))

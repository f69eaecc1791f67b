"""The results of trials in a file of lines: whatever kills a run, the next one takes up all but those in flight."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.core.files import locked
from onnxprune.errors import OptionError, OutputError

VERSION = 1


class Trials:
    """What is known of trials by their names: JSON values; see `opened`."""

    def __init__(self, path: Path, file: BinaryIO, common: Mapping[str, Any]) -> None:
        self.path, self._file = path, file
        self.known: dict[str, Any] = {}
        header = {"version": VERSION, "common": dict(common)}
        file.seek(0)
        whole, end, _ = file.read().rpartition(b"\n")
        lines = whole.split(b"\n") if end else []
        file.truncate(len(whole) + 1 if lines else 0)
        if not lines:
            self._append(header)
        elif self._parsed(lines[0]) != header:
            raise OptionError(f"{path} holds trials of another model, metric or data: delete it to begin anew")
        for line in lines[1:]:
            record = self._parsed(line)
            self.known[record["trial"]] = record["value"]

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            held = json.loads(line)
            if not ({"version"} <= held.keys() or {"trial", "value"} <= held.keys()):
                raise KeyError("trial")  # noqa: TRY301 - one error for every fault
        except (ValueError, KeyError, AttributeError) as error:
            raise OutputError(f"{self.path} is damaged ({error}): delete it to begin anew") from error
        return held

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def get(self, name: str) -> Any:
        """The value of a trial; None where it is not known."""
        return self.known.get(name)

    def add(self, name: str, value: Any) -> None:
        """A trial is done; its value is on the disk when this returns."""
        self.known[name] = value
        self._append({"trial": name, "value": value})

    def done(self) -> None:
        """What the trials were for is written: the file goes."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: Path, common: Mapping[str, Any]) -> Iterator[Trials]:
    """The trials of a file, which is made where there is none; no other process may open it meanwhile.

    The first line of the file holds what all trials have in common; a last line without its end was being written
    when the run was killed.

    Args:
        path: the file; `Trials.done` removes it.
        common: the model, the data, the metric: results of other trials say nothing about these.

    Raises:
        OptionError: the file holds trials of something else.
        OutputError: it is damaged, in use by another run, or cannot be written.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        if not locked(file.fileno()):
            raise OutputError(f"another run is working with {path}")
        trials = Trials(path, file, common)
        try:
            yield trials
        finally:
            if not trials.known:
                trials.done()

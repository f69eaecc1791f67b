"""What a folder of rounds remembers: the arguments that it was begun with, and the phases that are finished.

`state.json` is replaced atomically after each phase and holds the SHA-256 of every file that the phase left. A phase
whose files are not what it left is forgotten together with all that came after it, so whatever killed a run, the next
one goes on from files that are whole.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxprune.core.files import alone_in, digest, staged, unchanged, write
from onnxprune.errors import OptionError, OutputError

STATE = "state.json"
VERSION = 1


class Journal:
    """The finished phases of a folder, in their order.

    Attributes:
        folder: where it lies.
        forgotten: the phase whose files were changed since it finished, if any.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any], done: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.arguments = arguments
        whole = next((i for i, record in enumerate(done) if not unchanged(folder, record["files"])), len(done))
        self.forgotten: str | None = done[whole]["phase"] if whole < len(done) else None
        self._done = {record["phase"]: record for record in done[:whole]}

    def facts(self, phase: str) -> dict[str, Any] | None:
        """What a phase found out; None where it is not finished."""
        return self._done[phase]["facts"] if phase in self._done else None

    def finish(self, phase: str, files: Iterable[Path], facts: Mapping[str, Any]) -> None:
        """A phase is done: its files are in place."""
        held = {str(path.relative_to(self.folder)): digest(path) for path in files}
        self._done[phase] = {"phase": phase, "files": held, "facts": dict(facts)}
        self.save()

    def save(self) -> None:
        """Write the state."""
        state = {"version": VERSION, "arguments": self.arguments, "done": list(self._done.values())}
        with staged(self.folder / STATE) as place:
            write(place, [json.dumps(state, indent=1, allow_nan=False).encode() + b"\n"])


@contextlib.contextmanager
def opened(folder: Path, arguments: Mapping[str, Any], *, restart: bool) -> Iterator[Journal]:
    """The journal of a folder, made where there is none; no other process may open it meanwhile.

    Raises:
        OptionError: it was begun with other arguments, and `restart` does not say to forget them.
        OutputError: the folder holds something else, is in use, or cannot be written.
    """
    with alone_in(folder):
        yield _open(folder, dict(arguments), restart)


def _open(folder: Path, arguments: dict[str, Any], restart: bool) -> Journal:
    state = folder / STATE
    if not state.is_file() and not all(part.match(f".{STATE}.*.tmp") for part in folder.iterdir()):
        raise OutputError(f"{folder} holds other things than rounds: choose another folder for them")
    done = _read(state, arguments) if state.is_file() and not restart else []
    for part in (folder, *folder.glob("round-*")):
        for left in part.glob(".*.tmp"):  # half-written by a run that was killed
            shutil.rmtree(left, ignore_errors=True)  # its command may still be about to end
    journal = Journal(folder, arguments, done)
    journal.save()  # before anything goes: what is not in the state is not looked at
    if restart:
        for part in folder.glob("round-*"):
            shutil.rmtree(part)
    return journal


def _read(state: Path, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished phases, if the arguments are those of before."""
    try:
        held = json.loads(state.read_bytes())
        version, before = held["version"], dict(held["arguments"])
        done = [{"phase": r["phase"], "files": dict(r["files"]), "facts": dict(r["facts"])} for r in held["done"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{state} is damaged ({error}): begin anew with restart") from error
    if version != VERSION:
        raise OutputError(f"{state} is of version {version}, not {VERSION}: begin anew with restart")
    names = [name for name in {**before, **arguments} if before.get(name) != arguments.get(name)]
    if names:
        said = "; ".join(f"{name} was {before.get(name)!r} and is {arguments.get(name)!r}" for name in names)
        raise OptionError(
            f"{state.parent} was begun with other arguments: {said}. Give the same, another work folder, or restart"
        )
    return done

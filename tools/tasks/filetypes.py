"""Types of files, as magika names them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.task import Outcome, Task, Unavailable, fetched, share

NAMED = (
    "c cmake css csv deb diff gif html ico ini jar java json lua npy npz onnx pdf php png po rst sql svg tar tcl toml "
    "ttf wasm wav woff woff2 xml xz yaml zip "
)
# The labels that are right for an extension: its own name for those above.
LABELS = {
    **{extension: (extension,) for extension in NAMED.split()},
    "bat": ("batch",), "bz2": ("bzip",), "cc": ("cpp",), "class": ("javabytecode",), "cpp": ("cpp",),
    "crt": ("crt", "pem"), "exe": ("pebin",), "f90": ("fortran",), "gz": ("gzip",), "h": ("c", "cpp", "objectivec"),
    "hpp": ("c", "cpp"), "jpg": ("jpeg",), "js": ("javascript",), "md": ("markdown",), "patch": ("diff",),
    "pem": ("crt", "pem"), "pm": ("perl",), "py": ("python",), "pyc": ("pythonbytecode",), "pyi": ("python",),
    "rs": ("rust",), "sh": ("shell",), "so": ("elf",), "ts": ("typescript",), "whl": ("zip",), "yml": ("yaml",),
    "txt": ("txt", "randomtxt", "rst", "markdown"),
}  # fmt: skip
EACH = 40
BLOCK, ENDS, PADDING = 4096, 1024, 256  # block_size, beg_size = end_size and padding_token of magika's config


def features(path: Path) -> np.ndarray:
    """The file as magika's int32 [2048]: 1,024 bytes of each end without the white space around them."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
        file.seek(-len(head), os.SEEK_END)
        tail = file.read(BLOCK)
    found = np.full(2 * ENDS, PADDING, np.int32)
    first, last = (np.frombuffer(part, np.uint8) for part in (head.lstrip()[:ENDS], tail.rstrip()[-ENDS:]))
    found[: len(first)] = first
    found[len(found) - len(last) :] = last
    return found


def labels_of(scores: np.ndarray) -> list[str]:
    """Magika's labels for its outputs [file, label]."""
    names = json.loads(fetched("magika", "config.min.json").read_text(encoding="utf-8"))["target_labels_space"]
    return [names[i] for i in scores.argmax(1)]


def fitting(extensions: Iterable[str], labels: Iterable[str]) -> list[bool]:
    """Which labels fit the extensions."""
    return [label in LABELS[extension] for extension, label in zip(extensions, labels, strict=True)]


def labels_fit(outputs: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]) -> float:
    """The percentage of labels that fit the extensions in `targets`: for `--metric`."""
    return 100 * share(fitting(data["targets"], labels_of(outputs["target_label"])))


class FileTypes(Task):
    """magika's label against the extension, of files picked by the hash of their path."""

    metric = "fitting label"
    function = "tasks.filetypes:labels_fit"

    @cached_property
    def _split(self) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
        """(extension, features) of the files that are scored, and of those for `--data`."""
        by: dict[str, list[str]] = {extension: [] for extension in LABELS}
        roots = {Path(name).resolve() for name in ("/usr", sys.base_prefix, sys.prefix)}
        for root in sorted(r for r in roots if not any(other in r.parents for other in roots)):
            for folder, _, names in os.walk(root):
                for name in names:
                    stem, _, extension = name.rpartition(".")
                    if stem and extension in by:
                        by[extension].append(f"{folder}/{name}")
        scored: list[tuple[str, np.ndarray]] = []
        held: list[tuple[str, np.ndarray]] = []
        seen: set[bytes] = set()
        for extension, paths in by.items():
            paths.sort(key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
            taken = 0
            for path in map(Path, paths):
                if taken == 2 * EACH:
                    break
                if path.is_symlink() or not os.access(path, os.R_OK) or path.stat().st_size < 64:
                    continue
                found = features(path)
                if (key := found.tobytes()) not in seen:
                    seen.add(key)
                    (scored if taken < EACH else held).append((extension, found))
                    taken += 1
        if len(scored) < 500:
            raise Unavailable(f"only {len(scored)} files of a known type on this machine")
        return scored, held

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return self._split[0]

    def _score(self, session: Any) -> Outcome:
        inputs = np.stack([found for _, found in self._data])
        answers = [run(session, {"bytes": inputs[at : at + 32]})["target_label"] for at in range(0, len(inputs), 32)]
        labels = labels_of(np.concatenate(answers))
        return Outcome(share(fitting([extension for extension, _ in self._data], labels)), labels)

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        held = self._split[1]
        chosen = np.random.default_rng(0).permutation(len(held))[:count]
        return {
            "bytes": np.stack([held[i][1] for i in chosen]),
            "targets": np.array([held[i][0] for i in chosen]),
        }

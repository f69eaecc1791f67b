"""What runtimes were seen to do with each form: runtimes.json, which `python tools/compat forms` writes.

A row says of some forms, in front of some layers, at some opsets: decoded "once", while loading; "fused", read as
integers by a kernel; decoded at "each run"; "wrong" outputs; "refused"; "expanded" to dense in the file that the
runtime wants.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

Key = tuple[str, str, bool, str]  # encoding, value form, integers for a kernel, layer that reads the weight


@dataclass(frozen=True)
class Release:
    """A version of a runtime.

    Attributes:
        version: its number.
        words: the outcomes of a form in front of a layer, over all opsets and numbers of bits.
    """

    version: str
    words: dict[Key, frozenset[str]]

    @property
    def good(self) -> frozenset[Key]:
        """What gives the decoded model's outputs, decodes once or has a kernel, and keeps its size."""
        wrong = self.wrong
        return frozenset(key for key, words in self.words.items() if words <= {"once", "fused"} and key not in wrong)

    @property
    def wrong(self) -> frozenset[Key]:
        """What gives other outputs, without an error: a form that does so in front of one layer does in front of all.

        MNN reads memory that nobody wrote: what it gives is right on some runs.
        """
        forms = {key[:3] for key, words in self.words.items() if "wrong" in words}
        return frozenset(key for key in self.words if key[:3] in forms)


@cache
def releases() -> dict[str, tuple[Release, ...]]:
    """The measured versions of each runtime, oldest first."""
    held = json.loads(files("onnxprune.encodings").joinpath("runtimes.json").read_text(encoding="utf-8"))
    found: dict[str, list[Release]] = {}
    for measured in held["forms"]:
        words: dict[Key, set[str]] = {}
        for row in measured["rows"]:
            for encoding, values, fused, consumer in product(
                row["encoding"], row["values"], row["fused"], row["consumer"]
            ):
                words.setdefault((encoding, values.split(":")[0], fused, consumer), set()).add(row["outcome"])
        frozen = {key: frozenset(each) for key, each in words.items()}
        found.setdefault(measured["runtime"], []).extend(Release(version, frozen) for version in measured["versions"])
    return {name: tuple(sorted(each, key=lambda release: number(release.version))) for name, each in found.items()}


def number(version: str) -> tuple[int, ...]:
    """Major, minor and what follows, which compare as numbers; what is no number ends it."""
    parts = version.split(".")
    last = next((place for place, part in enumerate(parts) if not part.isdigit()), len(parts))
    return tuple(map(int, parts[:last]))

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
# Layers with weights of 2^20 and 2^23 entries, which some runtimes treat otherwise than small ones.
GATHER, LARGE_GATHER, LARGEST_GATHER, LARGE_MATMUL = "Gather", "Gather 1M", "Gather 8M", "MatMul 1M"
LARGE = (LARGE_GATHER, LARGEST_GATHER, LARGE_MATMUL)
_GOOD, _EACH_RUN, _WRONG = frozenset({"once", "fused"}), "each run", "wrong"
# Runtimes that fold what is small and not what is large: a weight of 400,000 entries in planes runs as the dense one
# does (LeNet-5 in docs/runtimes.md), one of 2^20 is decoded at each run.
_FOLDS_THE_SMALL = frozenset({"iree"})


@dataclass(frozen=True)
class Release:
    """A version of a runtime.

    Attributes:
        version: its number.
        words: the outcomes of a form in front of a layer, over all opsets and numbers of bits.
        folds_the_small: whether a form that is decoded at each run in front of a large table may be folded elsewhere.
    """

    version: str
    words: dict[Key, frozenset[str]]
    folds_the_small: bool = False

    @property
    def good(self) -> frozenset[Key]:
        """What gives the decoded model's outputs, decodes once or has a kernel, and keeps its size.

        A form that is decoded at each run in front of a Gather is so in front of every layer: beside others it does not
        always show. Forms are good in front of a large layer unless they were seen not to be, see `_large`.
        """
        small = {key for key, words in self.words.items() if key[3] not in LARGE and words <= _GOOD}
        forms = {key[:2] for key in small if not key[2]}
        bad = {key[:3] for key in self.wrong}
        for form in forms:
            large_table = frozenset[str]() if self.folds_the_small else self._large(form, LARGE_GATHER)
            if _EACH_RUN in large_table | self._seen(form, GATHER):
                bad.add((*form, False))
        large = {(*form, False, layer) for layer in LARGE for form in forms if self._large(form, layer) <= _GOOD}
        return frozenset(key for key in small | large if key[:3] not in bad)

    @property
    def read_as_integers(self) -> frozenset[Key]:
        """What is made to be decoded, but read as integers by a kernel, whose rounding the outputs then have."""
        return frozenset(
            key for key, words in self.words.items() if "fused" in words and not key[2] and key[1] != "exact"
        )

    @property
    def wrong(self) -> frozenset[Key]:
        """What gives other outputs, without an error: a form that does so in front of one layer does in front of all.

        MNN reads memory that nobody wrote: what it gives is right on some runs.
        """
        forms = {key[:3] for key, words in self.words.items() if _WRONG in words}
        return frozenset(key for key in self.words if key[:3] in forms)

    def _seen(self, form: tuple[str, str], layer: str) -> frozenset[str]:
        """The outcomes of an encoding and a value form in front of a layer, decoded."""
        return self.words.get((*form, False, layer), frozenset())

    def _large(self, form: tuple[str, str], layer: str) -> frozenset[str]:
        """The outcomes in front of a large layer: of other value forms of the encoding where this one was not run."""
        others = (words for key, words in self.words.items() if key[0] == form[0] and key[2:] == (False, layer))
        return self._seen(form, layer) or frozenset().union(*others)


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
        runtime = measured["runtime"]
        found.setdefault(runtime, []).extend(
            Release(version, frozen, runtime in _FOLDS_THE_SMALL) for version in measured["versions"]
        )
    return {name: tuple(sorted(each, key=lambda release: number(release.version))) for name, each in found.items()}


def number(version: str) -> tuple[int, ...]:
    """Major, minor and what follows, which compare as numbers; what is no number ends it."""
    parts = version.split(".")
    last = next((place for place, part in enumerate(parts) if not part.isdigit()), len(parts))
    return tuple(map(int, parts[:last]))

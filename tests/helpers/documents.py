"""The fences of the documentation: what stands in them, and the comments that say how they are tested.

A fence is followed by its output, if that is shown, in a fence without a language. A comment right in front of a fence
changes what happens to it:

    <!-- not run: REASON -->     it is only parsed: commands against the command line, Python against what it imports
    <!-- file: NAME -->          it is written to this file, for the fences behind it
    <!-- output: REASON -->      numbers with three or more decimals, and lines about times, are not compared
    <!-- command: NAME -->       .ci/run runs it in a clean clone
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.repository import DIGITS, LENETS, LENETS_PRUNED, ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
_COMMENT = re.compile(r"<!-- (not run|file|output|command): (.+) -->")
_FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Fence:
    """A block of code.

    Attributes:
        line: where it begins in its page.
        language: what stands behind the backticks.
        body: the code.
        notes: the comments in front of it, by kind.
    """

    line: int
    language: str
    body: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def commands(self) -> list[str]:
        """The lines of a shell fence, continued ones joined, without comments."""
        joined = self.body.replace("\\\n", " ")
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def fences(page: Path) -> Iterator[Fence]:
    """The fences of a page in order."""
    notes: dict[str, str] = {}
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        comment, opening = _COMMENT.fullmatch(line), _FENCE.fullmatch(line)
        if comment:
            notes[comment[1]] = comment[2]
        elif opening:
            body = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            yield Fence(number, opening[1], "".join(f"{text}\n" for text in body), notes)
            notes = {}
        elif line:
            notes = {}


def prose(page: Path) -> str:
    """A page without its fences."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments by which the headings of a page are linked to."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def folder_of(path: Path, patch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that has the models of the repository, and find the commands of this environment."""
    (path / "models").mkdir()
    for file in (*LENETS.values(), *LENETS_PRUNED.values(), DIGITS):
        shutil.copy(file, path / "models")
    patch.chdir(path)
    patch.syspath_prepend(str(path))
    patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return path

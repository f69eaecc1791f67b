"""Make the tables of a page from results: the page is written again.

What stands between `<!-- table: NAME -->` and `<!-- end table -->` in PAGE.md becomes the tables of
PAGE/NAME.json, which a command wrote with --json, below a line with that command, the day, the
machine and the versions. A table without such a file stays as it is, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from marks import replaced

from .measures import showing
from .results import Results

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "benchmarks.md"


@dataclass
class Page:
    """A page with its tables made again.

    Attributes:
        path: the file.
        before: what it holds.
        after: the same with the tables of the results.
        lines: what became of each table.
    """

    path: Path
    before: str
    after: str = ""
    lines: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Page:
        """Read a page and make its tables; ValueError if there is no page or a mark has no partner."""
        try:
            page = cls(path, path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        page.after = replaced(path, page.before, page._made)
        return page

    def _made(self, name: str, old: str) -> str:
        """The table of a name in place of the old one."""
        file = self.path.with_suffix("") / f"{name}.json"
        if not file.exists():
            self.lines.append(f"{name}: left as it is, there is no {self.path.stem}/{file.name}")
            return old
        results = Results.load(file)
        try:
            module = showing(results.command)
        except KeyError:
            raise ValueError(f"{file}: nothing shows what '{results.command}' measured") from None
        new = f"\n{results.caption}\n\n{module.shown(results.rows).rstrip()}\n\n"
        self.lines.append(f"{name}: {'up to date' if new == old else 'out of date'}")
        return new

    @property
    def differs(self) -> bool:
        """Whether a table was not that of its results."""
        return self.after != self.before

    def write(self) -> None:
        """Write the page with its new tables."""
        self.path.write_text(self.after, encoding="utf-8")

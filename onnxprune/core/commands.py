"""Commands of the user: a template with placeholders, run without a shell, its output kept in files."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from onnxprune.core import supervise
from onnxprune.errors import CommandError, OptionError

_PLACE = re.compile(r"\{(\w+)((?:\.\w+)?)\}")
SHOWN = 10  # lines of a failed command's output
_TAIL = 8192  # bytes that are read to find them


class Command:
    """A command line split as a POSIX shell would, but never run by one: `$`, `|`, `>` and `*` mean nothing.

    Args:
        what: the option that it was given with, for errors.
        text: the template; `{name}` is replaced after splitting, so that a path with spaces stays one argument, and
            `{name.suffix}` gives a path that suffix.
        known: the placeholders that it may have.
        needed: those that it must have.

    Raises:
        OptionError: quotes do not match, a placeholder is unknown or missing, or no such program is found.
    """

    def __init__(self, what: str, text: str, known: Collection[str], needed: Collection[str]) -> None:
        self.what, self.text = what, text
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise OptionError(f"{what} '{text}': {error}") from error
        if not self.words:
            raise OptionError(f"{what} is empty: give a command")
        found = {name for word in self.words for name, _ in _PLACE.findall(word)}
        listed = ", ".join(f"{{{name}}}" for name in known)
        for name in found - set(known):
            raise OptionError(f"{what} '{text}': {{{name}}} is none of {listed}")
        for name in (n for n in needed if n not in found):
            raise OptionError(f"{what} '{text}' lacks {{{name}}}: nothing would tell the command what to use")
        program = self.filled({}, self.words[0])
        if shutil.which(program) is None:
            raise OptionError(f"{what}: there is no program '{program}'")

    def suffix(self, name: str, default: str) -> str:
        """The suffix that a placeholder asks for."""
        found = [suffix for word in self.words for held, suffix in _PLACE.findall(word) if held == name and suffix]
        return found[0] if found else default

    def filled(self, values: Mapping[str, object], word: str) -> str:
        """A word with its placeholders replaced, as far as there are values."""

        def value(match: re.Match[str]) -> str:
            held = values.get(match[1], match[0])
            return str(held.with_suffix(match[2])) if isinstance(held, Path) and match[2] else str(held)

        return _PLACE.sub(value, word)

    def run(self, values: Mapping[str, object], log: Path, answer: Path | None = None) -> None:
        """Run to the end; what it prints goes into `log`, its standard output into `answer` where that is given.

        Whatever ends this process or interrupts this call ends the command and what it started.

        Raises:
            CommandError: its exit code is not 0; with the last lines of its output.
        """
        words = [self.filled(values, word) for word in self.words]
        with log.open("wb") as said, (answer or log).open("ab" if answer is None else "wb") as printed:
            said.write(f"$ {shlex.join(words)}\n".encode())
            said.flush()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervise.__file__, *words], stdin=subprocess.PIPE, stdout=printed,
                stderr=said if answer is not None else printed, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait()
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
        if code:
            lines = last_lines(log)[1:] if answer is None else last_lines(answer) + last_lines(log)[1:]
            ended = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
            raise CommandError(f"the {self.what} command {ended}; its output is in {log}", lines[-SHOWN:])

    def number(self, values: Mapping[str, object], folder: Path) -> float:
        """The number that it prints as its last line; its output stays in `NAME.out` and `NAME.log` of the folder.

        Raises:
            CommandError: it fails, or prints none that is finite.
        """
        answer = folder / f"{self.what}.out"
        self.run(values, folder / f"{self.what}.log", answer)
        lines = last_lines(answer)
        try:
            found = float(lines[-1]) if lines else math.nan
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            said = f"'{lines[-1].strip()}'" if lines else "nothing"
            raise CommandError(
                f"the {self.what} command must print a number as its last line, and printed {said} for "
                f"{values['model']}; its output is in {answer}",
                lines[-SHOWN:],
            )
        return found


def last_lines(path: Path) -> list[str]:
    """The last lines of a text file that are not empty."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()]

"""PerWeight: an option that differs from weight to weight, given as PATTERN=VALUE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from onnxprune.errors import OptionError
from onnxprune.model.weight import matches

Value = TypeVar("Value")


@dataclass(frozen=True)
class PerWeight(Generic[Value]):
    """Values by the pattern of a weight's name; where several match, the last counts.

    Attributes:
        entries: (pattern, value) in the order given; a pattern is a name in full or a glob.
    """

    entries: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, option: str, texts: Iterable[str], value: str, read: Callable[[str], Value]) -> PerWeight[Value]:
        """The values of an option.

        Args:
            option: its name, for the message of an error.
            texts: "PATTERN=VALUE" each; the pattern ends at the last equals sign.
            value: what stands behind the equals sign, for the message.
            read: makes the value of its text; a ValueError says what is wrong with it.

        Raises:
            OptionError: an entry has no pattern, or its value cannot be read.
        """
        entries = []
        for text in texts:
            pattern, equals, held = text.rpartition("=")
            if not equals or not pattern:
                raise OptionError(f"{option} '{text}' must be PATTERN={value}")
            try:
                entries.append((pattern, read(held)))
            except ValueError as error:
                raise OptionError(f"{option} '{text}': {error}") from error
        return cls(tuple(entries))

    def texts(self, write: Callable[[Value], str] = repr) -> tuple[str, ...]:
        """The entries as `parse` reads them."""
        return tuple(f"{pattern}={write(value)}" for pattern, value in self.entries)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of all entries."""
        return tuple(pattern for pattern, _ in self.entries)

    def match(self, name: str) -> tuple[str, Value] | None:
        """The last entry whose pattern matches a weight's name."""
        return next((entry for entry in reversed(self.entries) if matches(name, entry[0])), None)

    def get(self, name: str, default: Value) -> Value:
        """The value for a weight, or the default where no pattern matches its name."""
        entry = self.match(name)
        return default if entry is None else entry[1]


def fraction(text: str) -> float:
    """A share of a weight's entries: a number of at least 0 and below 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, not {value}")
    return value


def amount(text: str) -> float:
    """A finite number from 0 up."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"the number must be from 0 up, not {value}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None

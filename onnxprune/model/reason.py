"""Reason: why a weight is left alone, a kind for the code and a sentence for the user."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """Why a weight is left alone.

    The model says the first five, passes the others. Of TYPE and QUANTIZATION no option prunes a weight; a weight that
    is left alone for another reason is pruned if it is named in full.
    """

    UNUSED = auto()  # nothing reads it
    ROLE = auto()  # a bias, a norm, an embedding, an operand: not, or not only, the weight of a linear layer
    SMALL = auto()  # a mask saves less than it costs
    TYPE = auto()  # numpy does not compute with its type
    QUANTIZATION = auto()  # its zero point is unknown or does not fit
    SKIPPED = auto()  # an option says so
    NO_RULE = auto()  # no option says how to prune it
    AXES = auto()  # a pattern needs output and input axes
    ENCODED = auto()  # its values are encoded
    DENSE = auto()  # nothing but a dense tensor may stand in its place
    NOT_FOUND = auto()  # no parameter of a checkpoint holds its values
    UNMATCHED = auto()  # which parameter of a checkpoint it is cannot be told


@dataclass(frozen=True)
class Reason:
    """Why a weight is left alone.

    Attributes:
        kind: for the code.
        text: for the user, half a sentence about the weight: "is small: 96 elements, fewer than 256".
        label: for counts ("12 small"); the text where it is empty.
    """

    kind: Kind
    text: str
    label: str = ""

    def __str__(self) -> str:
        """The text."""
        return self.text

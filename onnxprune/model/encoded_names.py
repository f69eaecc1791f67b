"""Names of encoded weights: the mark on the node that writes a weight, and the ids that its parts begin with.

The parts of one weight are found by names alone, so that any tool that keeps names keeps the weight decodable:
constants and inner values are called `<id>.<part>` (`~7.codes`), and the node that writes the weight is called
`onnxprune:<encoding>:<values><flags>:<element type>:<id>`, with the name of the Constant node behind it that the
weight was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import ModelProto

from onnxprune.model.scopes import Scope, scopes_of

_OWNER = "onnxprune"
_ID = "~"


@dataclass(frozen=True)
class Mark:
    """The name of the node that writes an encoded weight.

    Attributes:
        encoding: how positions are stored.
        values: the value form.
        flags: what decoding must know beside the parts, such as ".t.b64".
        element: the weight's element type, in ONNX's words.
        id: what the names of its parts begin with.
        constant: the name of the Constant node that the weight was, or "".
    """

    encoding: str
    values: str
    flags: str
    element: str
    id: str
    constant: str = ""

    @property
    def prefix(self) -> str:
        """What the names of its parts begin with, the dot included."""
        return f"{self.id}."

    def __str__(self) -> str:
        name = f"{_OWNER}:{self.encoding}:{self.values}{self.flags}:{self.element}:{self.id}"
        return f"{name}:{self.constant}" if self.constant else name

    @classmethod
    def parse(cls, name: str) -> Mark | None:
        """The mark that a node's name is, or None."""
        label = name.split(":", 5)
        if len(label) < 5 or label[0] != _OWNER or not label[4].startswith(_ID):
            return None
        values, dot, flags = label[2].partition(".")
        return cls(label[1], values, dot + flags, *label[3:])


def prefixes(proto: ModelProto) -> tuple[str, ...]:
    """What the parts of encoded weights are called from the left, with the path to their body."""
    return tuple(
        scope.path + mark.prefix
        for scope in _bodies(proto)
        for mark in map(Mark.parse, (node.name for node in scope.body.node))
        if mark is not None
    )


def fresh_ids(proto: ModelProto) -> Iterator[str]:
    """Ids whose names nothing in the model uses."""
    used = set()
    for scope in _bodies(proto):
        names = [name for node in scope.body.node for name in (*node.input, *node.output)]
        names += [*scope.initializers, *scope.inputs]
        used |= {name.split(".")[0] for name in names if name.startswith(_ID)}
    number = 0
    while True:
        if f"{_ID}{number}" not in used:
            yield f"{_ID}{number}"
        number += 1


def _bodies(proto: ModelProto) -> Iterator[Scope]:
    return (inner for top in scopes_of(proto) for inner in top.inner())

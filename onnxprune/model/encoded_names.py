"""Names of encoded weights: the mark on the node that writes a weight, and the ids that its parts begin with.

The parts of one weight are found by names alone, so that any tool that keeps names keeps the weight decodable:
constants and inner values are called `<id>.<part>` (`~7.codes`), and the node that writes the weight is called
`onnxprune:<encoding>:<values><flags>:<element type>:<id>`, with the name of the Constant node behind it that the
weight was. A weight whose readers read packed rows or integers is written by no node: such a node stands behind each
reader, and the weight's own name is in the mark.

Tools that merge or inline models put something in front of every name or behind it: `restore_names` takes that away
again when a model is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass, replace

from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.model.scopes import Scope, scopes_of

_OWNER = "onnxprune"
_ID = "~"
_WEIGHT = ".g"  # the flag of a weight that no node writes, with the length of its name
_LENGTH = re.compile(r"\.g(\d+)")
_RENAMED = re.compile(
    rf"(?P<before>.*?)(?P<mark>{_OWNER}:\w+:\w+[^:]*:\w+:)(?P<id>{_ID}\d+)(?P<after>[^:]*)(:(?P<constant>.*))?",
    re.DOTALL,
)


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
        weight: the weight's name, where the node writes what its reader makes of it: rows of a table, a product.
    """

    encoding: str
    values: str
    flags: str
    element: str
    id: str
    constant: str = ""
    weight: str = ""

    @property
    def prefix(self) -> str:
        """What the names of its parts begin with, the dot included."""
        return f"{self.id}."

    def of_reader(self, number: int) -> Mark:
        """The mark behind another reader: no two nodes may have one name."""
        return replace(self, flags=f"{self.flags}.r{number}") if number else self

    def __str__(self) -> str:
        flags = f"{self.flags}{_WEIGHT}{len(self.weight)}" if self.weight else self.flags
        name = f"{_OWNER}:{self.encoding}:{self.values}{flags}:{self.element}:{self.id}"
        tail = self.weight + self.constant
        return f"{name}:{tail}" if tail else name

    @classmethod
    def parse(cls, name: str) -> Mark | None:
        """The mark that a node's name is, or None."""
        label = name.split(":", 5)
        if len(label) < 5 or label[0] != _OWNER or not label[4].startswith(_ID):
            return None
        values, dot, flags = label[2].partition(".")
        tail = label[5] if len(label) > 5 else ""
        found = _LENGTH.search(dot + flags)
        if found is None:
            return cls(label[1], values, dot + flags, label[3], label[4], tail)
        rest, length = _LENGTH.sub("", dot + flags), int(found[1])
        return cls(label[1], values, rest, label[3], label[4], tail[length:], tail[:length])


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


# names that another tool changed ---------------------------------------------------------------------------


def restore_names(proto: ModelProto) -> None:
    """Give encoded weights their names back where another tool put something in front of all names or behind them.

    A weight whose parts were called otherwise stays as it is.
    """
    ids: Iterator[str] | None = None
    for scope in _bodies(proto):
        for node in scope.body.node:
            found = _RENAMED.fullmatch(node.name) if f":{_ID}" in node.name else None
            around = found and _around(node, found)
            if found and around and any((*around, found["before"], found["after"])):
                ids = ids or fresh_ids(proto)
                _rename(scope, found, around, next(ids))


def _around(node: NodeProto, mark: re.Match[str]) -> tuple[str, str] | None:
    """What stands in front of and behind the names of a weight's parts; None where no such name is found."""
    part = re.compile(rf"(.*?){mark['id']}\.[a-z0-9]+(.*)", re.DOTALL)
    found = next(filter(None, map(part.fullmatch, node.input)), None)
    return (found[1], found[2]) if found else None


def _rename(scope: Scope, mark: re.Match[str], around: tuple[str, str], new: str) -> None:
    """Call a weight's parts, and what was changed around its reader, by an id that nothing else has."""
    own, end = f"{around[0]}{mark['id']}.", around[1]
    before, after = mark["before"], mark["after"]

    def renamed(name: str) -> str:
        inside = name.startswith(own) and name.endswith(end)
        return f"{new}.{name[len(own) : len(name) - len(end)]}" if inside else name

    # onnxprune:<what was changed>:<id>.:, for a Gemm its attributes, and the name that the node had
    changed = re.compile(
        rf"{re.escape(before)}({_OWNER}:[a-z]+:){mark['id']}(\.:(?:(?<=gemm:{mark['id']}\.:)[^:]*:)?)(.*){re.escape(after)}",
        re.DOTALL,
    )
    body = scope.body
    found = [(each, _RENAMED.fullmatch(each.name)) for each in body.node if f":{mark['id']}" in each.name]
    marked = [(each, m) for each, m in found if m and m["id"] == mark["id"] and _around(each, m) == around]
    for each in body.node:
        _replace(each.input, renamed)
        _replace(each.output, renamed)
        label = changed.fullmatch(each.name)
        if label:
            each.name = f"{label[1]}{new}{label[2]}{before}{label[3]}{after}"
    for entry in (*body.value_info, *(body.initializer if isinstance(body, GraphProto) else ())):
        entry.name = renamed(entry.name)
    for each, own_mark in marked:
        each.name = _renamed_mark(own_mark, new, around)


def _renamed_mark(mark: re.Match[str], new: str, around: tuple[str, str]) -> str:
    """The mark with another id, and with the names that its weight and its Constant node have now."""
    tail = mark["constant"]
    held = Mark.parse(f"{mark['mark']}{new}:{tail}")
    if held is None or not held.weight:
        return f"{mark['mark']}{new}" + ("" if tail is None else f":{mark['before']}{tail}")
    behind = mark["before"] + held.constant if ".c" in held.flags else ""
    return str(replace(held, weight=around[0] + held.weight + around[1], constant=behind))


def _replace(names: MutableSequence[str], renamed: Callable[[str], str]) -> None:
    for place, name in enumerate(names):
        if renamed(name) != name:
            names[place] = renamed(name)

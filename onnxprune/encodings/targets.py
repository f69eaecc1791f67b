"""Targets: the runtimes that a file is for, and what each of them was seen to read right and no slower than dense.

Measured with `tools/compat.py`; docs/runtimes.md holds the tables. A runtime that reads a form wrong without an error
is the reason for this file: nothing is allowed here that was not seen to give the outputs of the decoded model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from onnxprune.errors import OptionError
from onnxprune.model.scopes import Scope


def readers_in(scope: Scope, value: str) -> set[str]:
    """The operators that read a value, in a body and below."""
    return {node.op_type for inner in scope.inner() for node, _ in inner.readers.get(value, ())}


_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Target:
    """What a runtime reads.

    Attributes:
        version: that was measured, the oldest that may be asked for.
        encodings: names of those that decode themselves, and coo.
        integers: the version from which kernels read small integers faster than they read floats; "" if none does.
        recurrent: whether weights of LSTM, GRU and RNN may be sparse.
    """

    version: str
    encodings: frozenset[str]
    integers: str = ""
    recurrent: bool = True


_RUNS = frozenset({"flat", "rows", "dense"})
TARGETS = {
    "onnxruntime": Target("1.15", _RUNS | {"bitmask", "coo", "gathered"}, integers="1.25"),
    "onnxruntime-web": Target("1.30", _RUNS | {"bitmask"}),
    "openvino": Target("2026.4", _RUNS, recurrent=False),
    "opencv": Target("5.0", _RUNS),
    "tract": Target("0.23.9", _RUNS | {"bitmask"}),
    "mnn": Target("3.6.1", _RUNS),
}
_NEWEST_ASKED = "1.25"  # of onnxruntime, unless told


@dataclass(frozen=True)
class Targets:
    """What all of some runtimes read.

    Attributes:
        names: of them, as they were asked for.
        encodings: names of the encodings.
        integers: whether kernels may read small integers.
        recurrent: whether weights of LSTM, GRU and RNN may be sparse.
    """

    names: tuple[str, ...] = ()
    encodings: frozenset[str] = TARGETS["onnxruntime"].encodings
    integers: bool = True
    recurrent: bool = True

    @classmethod
    def of(cls, specs: Iterable[str]) -> Targets:
        """From NAME or NAME>=VERSION; `any` stands for all that are known.

        Raises:
            OptionError: a runtime is not known, or a version is older than what was tried.
        """
        asked = [parsed for spec in specs for parsed in _parsed(spec)]
        if not asked:
            return cls()
        held = [(TARGETS[name], version) for name, version in asked]
        return cls(
            tuple(dict.fromkeys(specs)),
            frozenset.intersection(*(target.encodings for target, _ in held)),
            all(bool(target.integers) and _number(version) >= _number(target.integers) for target, version in held),
            all(target.recurrent for target, _ in held),
        )

    def allows(self, encoding: str, readers: Iterable[str]) -> bool:
        """Whether a weight that these operators read may have an encoding; without a name every one."""
        if not self.names:
            return True
        dense = encoding == "dense" or _RECURRENT.isdisjoint(readers)
        return encoding in self.encodings and (self.recurrent or dense)

    @property
    def left_out(self) -> str:
        """What they do not read, in words; "" if nothing."""
        out = sorted(EVERY_FORM.encodings - self.encodings)
        out += [] if self.integers else ["integers in front of MatMul"]
        out += [] if self.recurrent else ["sparse weights of LSTM, GRU and RNN"]
        return ", ".join(out)


EVERY_FORM = Targets()


def _parsed(spec: str) -> list[tuple[str, str]]:
    """The names and versions of a spec."""
    found = re.fullmatch(r"([a-z-]+)(?:>=(\d+(?:\.\d+)*))?", spec.replace(" ", ""))
    if found is not None and found[1] == "any" and not found[2]:
        return [(name, _default(name)) for name in TARGETS]
    if found is None or found[1] not in TARGETS:
        raise OptionError(f"target '{spec}' is not one of any, {', '.join(TARGETS)} (or NAME>=VERSION)")
    name, version = found[1], found[2] or _default(found[1])
    if _number(version) < _number(TARGETS[name].version):
        raise OptionError(f"target '{spec}': {name} was not tried before {TARGETS[name].version}")
    return [(name, version)]


def _default(name: str) -> str:
    return _NEWEST_ASKED if name == "onnxruntime" else TARGETS[name].version


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))

"""Pass: the contract. A pass is frozen options plus `run`; a pipeline is a list of them."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from onnxprune.errors import OptionError, PassError
from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A transformation of a model. Fields of a subclass are its options; `str()` recreates it.

    Options are numbers, strings, booleans and tuples of strings, so that a pass can be written on a command line:
    `magnitude{sparsity=0.9, skip=["head*"]}`. They are checked when it is made: their types here, the rest in `check`.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the types, and then what the pass itself asks of its options."""
        check_types(self, f"{self.name}: ")
        self.check()

    def check(self) -> None:  # noqa: B027 - types are all that many options need
        """Refuse options, of the right types, that are out of range or contradict each other.

        Raises:
            OptionError: with the first of them.
        """

    @abstractmethod
    def run(self, model: Model, progress: Progress = silent) -> Change:
        """Edit the model in place and say honestly what changed."""

    def __str__(self) -> str:
        """The spec: the name, and the options that differ from their defaults as a TOML inline table."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        table = ", ".join(f"{key}={json.dumps(value)}" for key, value in given.items())
        return f"{self.name}{{{table}}}" if table else self.name


def parse(spec: str, table: dict[str, type[Pass]]) -> Pass:
    """A pass from its spec: `name` or `name{option=value, ...}`.

    Raises:
        PassError: no pass of that name.
        OptionError: the options are not a TOML inline table or not the pass's own.
    """
    import tomllib  # most commands make their passes themselves

    name, brace, rest = spec.strip().partition("{")
    kind = named(name, table)
    try:
        options = tomllib.loads("x = {" + rest)["x"] if brace else {}
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"pass '{spec}': the options must look like {{sparsity=0.9, scope=\"global\"}}") from error
    return create(kind, options)


def named(name: str, table: dict[str, type[Pass]]) -> type[Pass]:
    """The class of a pass.

    Raises:
        PassError: no pass of that name.
    """
    if name not in table:
        raise PassError(f"unknown pass '{name}'; there are {', '.join(sorted(table))}")
    return table[name]


def create(kind: type[Pass], options: dict[str, Any]) -> Pass:
    """A pass with the options; a list stands for a tuple.

    Raises:
        OptionError: the pass has no such option, lacks one, or refuses a value.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(f"pass '{kind.name}' has no option '{unknown[0]}'; it has {', '.join(known) or 'none'}")
    missing = [f"'{name}'" for name, f in known.items() if name not in options and _is_required(f)]
    if missing:
        raise OptionError(f"pass '{kind.name}' needs the option{'s' * (len(missing) > 1)} {' and '.join(missing)}")
    tidy = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        return kind(**tidy)
    except (TypeError, ValueError) as error:
        raise OptionError(f"pass '{kind.name}': {error}") from error


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def check_types(options: Any, prefix: str = "") -> None:
    """Refuse options, the fields of a dataclass, that are not of their types.

    Args:
        options: the dataclass.
        prefix: of the message.

    Raises:
        OptionError: with the first of them.
    """
    hints = get_type_hints(type(options))
    for name in (each.name for each in dataclasses.fields(options)):
        if not _fits(getattr(options, name), hints[name]):
            raise OptionError(f"{prefix}{name} cannot be {getattr(options, name)!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an option's type."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is not None:  # a callable, a path of text
        return isinstance(value, get_origin(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))

"""Samples that a caller holds in memory: for the time of a call a name stands for them where a path would."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from onnxprune.core.dtypes import Array
from onnxprune.core.files import PathLike
from onnxprune.errors import DataError

UNNAMED = ""  # the name of an array that is for the only input
SCHEME = "data:"

Data: TypeAlias = PathLike | ArrayLike | Mapping[str, ArrayLike] | Iterable[Mapping[str, ArrayLike]]


@dataclass(frozen=True)
class Part:
    """A batch, a sample or a whole run: what errors call it, and its arrays by name."""

    where: str
    arrays: dict[str, Array]


Given: TypeAlias = dict[str, Array] | list[Part]

_held: dict[Path, list[Given]] = {}


@contextlib.contextmanager
def held(data: Data | None) -> Iterator[PathLike | None]:
    """A path for data: the one that it is, or a name for arrays in memory.

    `samples.read` knows the name until the context ends. It holds the digest of names, types, shapes and values: it is
    the same whenever the data is.

    Args:
        data: a path; an array for the only input; arrays by input (and `targets`); or an iterable of such dicts, each
            a batch or a sample. It is gone through once.

    Raises:
        DataError: it is none of these.
    """
    if data is None or isinstance(data, str | os.PathLike):
        yield data
        return
    given = gathered(data)
    name = Path(f"{SCHEME}{_digest(given)}")
    _held.setdefault(name, []).append(given)
    try:
        yield name
    finally:
        _held[name].pop()
        if not _held[name]:
            del _held[name]


def found(path: Path) -> Given | None:
    """What is held under a name; None for any other path."""
    return _held[path][-1] if path in _held else None


def path_of(data: Data | None) -> Path | None:
    """The path of data for which `held` has made one."""
    if data is None or isinstance(data, str | os.PathLike):
        return None if data is None else Path(data)
    raise DataError("data in memory has no path")


def gathered(data: Any) -> Given:
    """Arrays by name, or parts of them; see `held`."""
    if isinstance(data, Mapping):
        return {_name(name): _array(name, value) for name, value in data.items()}
    if hasattr(data, "__array__"):
        return {UNNAMED: _array("data", data)}
    if isinstance(data, Iterable):
        feeds = list(data)
        if all(isinstance(feed, Mapping) for feed in feeds):
            return [
                Part(f"number {number}", {_name(name): _array(name, value) for name, value in feed.items()})
                for number, feed in enumerate(feeds)
            ]
    raise DataError(
        f"data must be a path, an array, arrays by input name, or an iterable of those, not {type(data).__name__}"
    )


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise DataError(f"data: {name!r} is not the name of an input")
    return name


def _array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of another device
        raise DataError(f"data: '{name}' is no array: {' '.join(str(error).split())}") from error


def _digest(given: Given) -> str:
    total = hashlib.sha256()
    for feed in [part.arrays for part in given] if isinstance(given, list) else [given]:
        for name, array in sorted(feed.items()):
            total.update(f"{name} {array.dtype} {array.shape} ".encode())
            total.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return total.hexdigest()[:16]

"""What is measured of a model again and again: kept while a search wants it, forgotten with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

Value = TypeVar("Value")
_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Within this, `recall` makes each value once."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def keeps() -> bool:
    """Whether anything is kept now."""
    return _kept.get() is not None


def recall(key: Hashable, make: Callable[[], Value]) -> Value:
    """What `make` gives, or gave for this key before; nobody may change it."""
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return kept[key]

"""Passes arrive through the entry point group `onnxprune.passes`: a provider is a table name -> class."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from onnxprune.errors import PassError
from onnxprune.pipeline.base import Pass

GROUP = "onnxprune.passes"


@cache
def passes() -> dict[str, tuple[type[Pass], str]]:
    """Every installed pass: name -> (class, provider).

    Raises:
        PassError: a provider cannot be loaded, or two providers offer the same name.
    """
    found: dict[str, tuple[type[Pass], str]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        try:
            table: dict[str, type[Pass]] = point.load()
            strange = [name for name, kind in table.items() if not issubclass(kind, Pass)]
        except Exception as error:
            raise PassError(f"the pass provider '{point.name}' ({point.value}) is broken: {error}") from error
        if strange:
            raise PassError(f"the pass provider '{point.name}' ({point.value}) is broken: '{strange[0]}' is not a Pass")
        for name, kind in table.items():
            if name in found:
                raise PassError(f"two providers offer the pass '{name}': '{found[name][1]}' and '{point.name}'")
            found[name] = (kind, point.name)
    return found


def table() -> dict[str, type[Pass]]:
    """Every installed pass: name -> class."""
    return {name: kind for name, (kind, _) in passes().items()}

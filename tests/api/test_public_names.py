"""The names that onnxprune exports, and the errors that it raises."""

from __future__ import annotations

import inspect
import pkgutil
import re

import pytest

import onnxprune
from onnxprune import errors


def test_public_names():
    assert sorted(onnxprune.__all__) == onnxprune.__all__ == dir(onnxprune)
    for name in onnxprune.__all__:
        assert getattr(onnxprune, name).__module__.startswith("onnxprune")
    with pytest.raises(AttributeError, match="nonsense"):
        onnxprune.nonsense  # noqa: B018


def test_no_public_name_is_a_module():
    """The import of a submodule binds its name in the package: a function of that name would be gone."""
    modules = {module.name for module in pkgutil.iter_modules(onnxprune.__path__)}
    assert "errors" in modules
    assert not modules & set(onnxprune.__all__)


def test_the_error_tree_is_drawn_as_it_is():
    drawn = re.findall(r"^(?:[│ ] {3})?(?:├── |└── |)(\w+) {2,}", errors.__doc__, re.MULTILINE)
    defined = [c.__name__ for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert sorted(drawn) == sorted(defined)
    for kind in (getattr(errors, name) for name in drawn):
        assert issubclass(kind, errors.OnnxPruneError)
        assert kind.exit_code == (3 if issubclass(kind, errors.ToleranceMissed) else 1)

"""Passes of every provider by name; what a broken provider says."""

from importlib.metadata import EntryPoint

import pytest

from onnxprune.errors import PassError
from onnxprune.pipeline import registry
from onnxprune_passes import PASSES

BUILTIN = EntryPoint("builtin", "onnxprune_passes:PASSES", registry.GROUP)


@pytest.fixture
def providers(monkeypatch):
    """Install these entry points and no others."""

    def install(*points: EntryPoint) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else ())
        registry.passes.cache_clear()

    yield install
    registry.passes.cache_clear()


def test_the_builtin_passes_are_installed():
    assert registry.table().items() >= PASSES.items()
    assert registry.passes()["magnitude"] == (PASSES["magnitude"], "builtin")


def test_no_provider(providers):
    providers()
    assert registry.table() == {}


def test_a_name_clash_names_both_providers(providers):
    providers(BUILTIN, EntryPoint("rival", "onnxprune_passes:PASSES", registry.GROUP))
    with pytest.raises(PassError, match=r"'\w+'.*'builtin' and 'rival'"):
        registry.passes()


@pytest.mark.parametrize(
    "value",
    ["no_such_module:PASSES", "onnxprune_passes:NOTHING", "onnxprune:__version__", "onnxprune.model.protobuf:INLINE"],
)
def test_a_broken_provider_is_named(providers, value):
    providers(BUILTIN, EntryPoint("broken", value, registry.GROUP))
    with pytest.raises(PassError, match=rf"provider 'broken' \({value}\) is broken"):
        registry.passes()


def test_a_provider_of_other_classes_is_named(providers, monkeypatch):
    monkeypatch.setattr("onnxprune_passes.PASSES", {"mine": dict})
    providers(EntryPoint("mine", "onnxprune_passes:PASSES", registry.GROUP))
    with pytest.raises(PassError, match="'mine'"):
        registry.passes()

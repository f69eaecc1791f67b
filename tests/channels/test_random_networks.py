"""dead_neurons on random networks of every family: nothing that is computed changes, and nothing dead is left."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune_passes import DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.graphs import FAMILIES
from tests.helpers.running import load, serialise

EXACT = ("conv", "deconv", "fc", "qkv", "w", "r", "norm", "in", "slope", "gamma", "scale", "zero")  # not biases
every_family = pytest.mark.parametrize("family", FAMILIES)


def drawn(data: st.DataObject, family: str, kills: bool = True):
    return data.draw(FAMILIES[family](kills=kills))


@every_family
@settings(max_examples=10)
@given(data=st.data())
def test_outputs_stay_the_same(family, data):
    proto, _ = drawn(data, family)
    after, _ = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after)


@every_family
@settings(max_examples=10)
@given(data=st.data())
def test_dead_neurons_are_gone_and_no_other(family, data):
    proto, expected = drawn(data, family)
    after, change = checks.stripped(proto, DeadNeurons())
    found = checks.shapes(after)
    assert {name: found.get(name) for name in expected} == expected
    checks.assert_record(proto, after, change, EXACT)


@every_family
@settings(max_examples=8)
@given(data=st.data())
def test_the_model_stays_valid_and_its_names_stay(family, data):
    proto, _ = drawn(data, family)
    after, _ = checks.stripped(proto, DeadNeurons())
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)


@every_family
@settings(max_examples=5)
@given(data=st.data())
def test_a_second_run_changes_nothing(family, data):
    proto, _ = drawn(data, family)
    once = load(proto)
    first = DeadNeurons().run(once)
    stripped = serialise(once)
    second = DeadNeurons().run(once)
    assert not second.removed
    assert not second.modified
    assert serialise(once) == stripped
    again = load(proto)
    assert DeadNeurons().run(again) == first
    assert serialise(again) == stripped


@every_family
@settings(max_examples=4)
@given(data=st.data())
def test_without_dead_neurons_the_file_comes_back_as_it_was(family, data):
    proto, expected = drawn(data, family, kills=False)
    before = checks.shapes(proto)
    assume(expected == {name: before[name] for name in before if not name.startswith("shape")})
    opened = load(proto)
    change = DeadNeurons().run(opened)
    assert not change.modified
    assert not change.removed
    assert serialise(opened) == serialise(load(proto))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        source.write_bytes(proto.SerializeToString())
        onnxprune.transform(source, target, ["dead_neurons"], verify=False)
        assert target.read_bytes() == source.read_bytes()

"""What every pass keeps: its text recreates it, a second run changes nothing, bad options are refused."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.errors import OptionError, WeightError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline import base, registry
from onnxprune_passes import Encode, Magnitude
from tests.helpers.builders import matmul, mlp, normal
from tests.helpers.running import arrays, load, outputs, prune, serialise

PASSES = registry.table()


EXAMPLES = {
    "magnitude": [
        {"sparsity": 0.5},
        {"sparsity": 0.9, "scope": "global"},
        {"sparsity": 0.9, "scope": "channel"},
        {"threshold": 0.3},
        {"pattern": "2:4"},
        {"sparsity": 0.5, "pattern": "1x4", "skip": ("bias*", 'quote"d')},
        {"sparsity": 0.5, "set": ("*=0.25", "a b=0.1")},
    ],
    "channels": [
        {"sparsity": 0.0, "score": "l2", "multiple": 8},  # a share is one of what is there
        {"sparsity": 0.25, "set": ("a*=0.5", 'quote"d=0')},
    ],
    "activations": [{"data": "x.npz"}, {"data": "x y", "samples": 8, "half": True}],
    "encode": [{}, {"encoding": "graph"}, {"encoding": "rows", "values": "half"}],
    "apply_masks": [{"masks": "m.safetensors"}, {"masks": 'a "b"', "names_from": "w.npz"}],
    "update": [{"source": "w.pt", "masks": "m.npz"}],
}
FROM_FILES = {"apply_masks", "update", "activations"}  # masks/test_apply.py, test_update.py, activations/ run these


INSTALLED = [
    pytest.param(base.create(PASSES[name], options), id=f"{name}{options}")
    for name in PASSES
    for options in EXAMPLES.get(name, [{}])
]


@pytest.mark.parametrize("item", INSTALLED)
def test_a_pass_is_recreated_by_its_text(item):
    assert base.parse(str(item), PASSES) == item


NAMELESS = [
    p
    for p in INSTALLED
    if not getattr(p.values[0], "skip", ())
    and not getattr(p.values[0], "set", ())
    and p.values[0].name not in FROM_FILES
]


@pytest.mark.parametrize("item", NAMELESS)
def test_a_pass_run_twice_changes_nothing_the_second_time(case, item):
    opened = prune(case[0], sparsity=0.8)
    item.run(opened)
    once = serialise(opened)
    change = item.run(opened)
    assert not change.modified
    assert serialise(opened) == once
    assert outputs(once)
    again = load(onnx.load_from_string(once))
    assert not item.run(again).modified
    assert arrays(again) == {w.name: (w.dtype, w.shape, w.array(opened).tobytes()) for w in find(opened)}


def attempt(item: base.Pass, opened: Model) -> bool | str:
    """Whether the pass changed the model, or what it said of the weight that it refused."""
    try:
        return item.run(opened).modified
    except WeightError as error:
        return str(error)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("item", NAMELESS)
def test_a_weight_of_nan_and_inf_is_refused_or_changes_once(item, dtype):
    """NaN equals nothing, itself neither: a pass that compares values would change it for ever."""
    weight = normal(64, 32, dtype=np.dtype(getattr(ml_dtypes, dtype, dtype)))
    weight[::7, 3], weight[::9, 4], weight[::5, 5] = np.nan, np.inf, -np.inf
    opened = load(matmul(weight, element=helper.np_dtype_to_tensor_dtype(weight.dtype)))
    first = attempt(item, opened)
    once = serialise(opened)
    for again in (opened, load(onnx.load_from_string(once))):
        assert attempt(item, again) == (first if isinstance(first, str) else False)
        assert serialise(again) == once


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"sparsity": float("nan")},
        {"sparsity": True},
        {"sparsity": "x"},
        {"sparsity": 0.5, "quality": 1.0},
        {"sparsity": 0.5, "scope": "tensor"},
        {"quality": 1.0, "scope": "global"},
        {"sparsity": 0.5, "pattern": "2:4"},
        {"pattern": "5:4"},
        {"pattern": "2:4x"},
        {"pattern": "1x4"},
        {"pattern": "0x4", "sparsity": 0.5},
        {"set": ("w",)},
        {"set": ("w=x",)},
        {"set": ("w=1",)},
        {"colour": "red"},
    ],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(OptionError):
        base.create(Magnitude, options)


@pytest.mark.parametrize("item", INSTALLED)
def test_an_option_of_a_wrong_type_is_refused_however_the_pass_is_made(item):
    """What an option holds is a number, a text, a tuple of texts or a bool: a bool is no number, and 1 is no bool."""
    for field in dataclasses.fields(item):
        held = getattr(item, field.name)
        wrong = 1 if isinstance(held, bool) else True
        with pytest.raises(OptionError, match=f"{item.name}: {field.name} cannot be {wrong}"):
            dataclasses.replace(item, **{field.name: wrong})


def test_encoded_weights_are_named_and_their_parts_are_not():
    opened = prune(mlp((32, 64, 16)), sparsity=0.9)
    Encode().run(opened)
    change = Magnitude(sparsity=0.95).run(opened)
    assert not change.modified
    assert {name: reason.text for name, reason in change.skipped.items()} == {
        "fc0.bias": "is a bias",
        "fc1.bias": "is a bias",
        "fc0.weight": "is encoded: decode the model first",
        "fc1.weight": "is encoded: decode the model first",
    }

"""Models that are compressed again: never larger, and the loss is spent once."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune_passes import Decode
from tests.helpers.builders import MODELS, matmul, mlp


def weights_of(path) -> dict[str, bytes]:
    """Every weight, decoded."""
    opened = Model.load(path)
    Decode().run(opened)
    return {w.name: w.array(opened).tobytes() for w in find(opened)}


OPTIONS = st.fixed_dictionaries(
    {
        "values": st.sampled_from(
            ["auto", "auto", "exact", "half", "shared:2", "shared:4", "shared:8", "int8", "int8:3", "int4"]
        ),
        "prefer": st.sampled_from(["speed", "size"]), "strip": st.booleans(),
        "sparsity": st.sampled_from([None, 0.5, 0.9]), "encoding": st.sampled_from(["auto", "auto", "graph", "flat"]),
    }
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([16, 40, 64, 130]), min_size=2, max_size=4), seed=st.integers(0, 50),
    opset=st.sampled_from([9, 11, 13, 17, 21]), options=OPTIONS,
)  # fmt: skip
def test_a_second_compress_is_never_larger(sizes, seed, opset, options, tmp_path_factory):
    """A share of what is left is more than a share of the whole: where neurons went, the rule prunes anew."""
    options["strip"] &= options["sparsity"] is None
    folder = tmp_path_factory.mktemp("twice")
    paths = [folder / f"{n}.onnx" for n in range(4)]
    onnx.save(mlp((*sizes, 10), seed=seed, opset=opset), paths[0])
    for source, target in itertools.pairwise(paths):
        onnxprune.compress(source, target, verify=False, **options)
    sizes_of = [path.stat().st_size for path in paths]
    assert sizes_of[2] <= sizes_of[1], sizes_of
    assert sizes_of[3] <= sizes_of[2], sizes_of


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("values", ["auto", "exact", "int8", "shared:3"])
def test_every_kind_of_model_twice(name, values, tmp_path):
    paths = [tmp_path / f"{n}.onnx" for n in range(3)]
    onnx.save(MODELS[name][0](), paths[0])
    for source, target in itertools.pairwise(paths):
        onnxprune.compress(source, target, values=values, verify=False)
    once, twice = paths[1].stat().st_size, paths[2].stat().st_size
    if values in ("auto", "exact"):
        assert once <= paths[0].stat().st_size
    assert twice <= once
    if twice == once and encoded_weights(Model.load(paths[1])):
        assert weights_of(paths[1]) == weights_of(paths[2])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99), strip=st.booleans(), share=st.sampled_from([None, 0.8]))
def test_the_loss_is_spent_once(seed, strip, share, tmp_path_factory):
    """With the same options the second file holds the values of the first.

    A share is of what is left: where neurons went, the second run prunes more.
    """
    folder = tmp_path_factory.mktemp("spent")
    a, b, c = (folder / f"{n}.onnx" for n in "abc")
    onnx.save(mlp((64, 128, 64, 10), seed=seed), a)
    first = onnxprune.compress(a, b, verify=False, strip=strip, sparsity=share)
    second = onnxprune.compress(b, c, verify=False, strip=strip, sparsity=share)
    if not strip:
        assert b.read_bytes() == c.read_bytes()
    if share is not None and first.removed:
        assert second.parameters["nonzero"] < first.parameters["nonzero"]
    else:
        assert onnxprune.verify(b, c).outputs[0]["max_abs"] < 1e-4


def test_more_loss_than_was_spent_makes_it_smaller(tmp_path):
    a, b, c, d = (tmp_path / f"{n}.onnx" for n in "abcd")
    onnx.save(mlp((64, 256, 64, 10)), a)
    onnxprune.compress(a, b, loss=0.005, verify=False)
    assert onnxprune.compress(b, c, loss=0.005, verify=False).notes == [
        "no smaller form was found: the model stays as it was"
    ]
    assert c.read_bytes() == b.read_bytes()
    onnxprune.compress(b, d, loss=0.05, verify=False)
    assert d.stat().st_size < b.stat().st_size
    assert {p.key: p.value for p in onnx.load(d).metadata_props}["onnxprune.loss"] == "0.05"


@pytest.mark.parametrize("said", ["", "nan", "-1", "inf", "much", "0.1 0.2"])
def test_what_the_metadata_say_of_the_loss_may_be_anything(said, tmp_path):
    a, b, c = (tmp_path / f"{n}.onnx" for n in "abc")
    onnx.save(mlp((64, 256, 64, 10)), a)
    onnxprune.compress(a, b, verify=False)
    proto = onnx.load(b)
    next(p for p in proto.metadata_props if p.key == "onnxprune.loss").value = said
    onnx.save(proto, b)
    onnxprune.compress(b, c, verify=False)
    assert c.stat().st_size <= b.stat().st_size


def test_the_form_that_is_asked_for_wins_where_a_kernel_reads_it(tmp_path):
    a, b, c, d = (tmp_path / f"{n}.onnx" for n in "abcd")
    onnx.save(mlp((64, 256, 64, 10)), a)
    onnxprune.compress(a, b, values="shared:4", verify=False)
    assert onnxprune.compress(b, c, values="int8", verify=False).integers == 2
    kept = onnxprune.compress(b, d, values="half", verify=False)
    assert d.stat().st_size <= b.stat().st_size
    assert kept.integers == 0
    assert weights_of(d) == weights_of(b)


@pytest.mark.parametrize("model_name", ["lenet-5-pruned", "lenet-300-100-pruned"])
def test_the_trained_examples_get_no_larger(model_name, request, tmp_path):
    source = request.config.rootpath / "models" / f"{model_name}.onnx"
    once, twice, exact = (tmp_path / f"{n}.onnx" for n in ("once", "twice", "exact"))
    onnxprune.compress(source, once, verify=False)
    onnxprune.compress(once, twice, verify=False)
    onnxprune.compress(source, exact, values="exact", sparsity=0.0, strip=False, verify=False)
    assert once.stat().st_size <= source.stat().st_size
    assert twice.read_bytes() == once.read_bytes()
    assert exact.stat().st_size <= source.stat().st_size
    assert weights_of(exact) == weights_of(source)


def test_encode_leaves_an_encoded_file_as_it_is(tmp_path):
    a, b, c = (tmp_path / f"{n}.onnx" for n in "abc")
    onnx.save(mlp((64, 256, 64, 10)), a)
    for values in ("exact", "auto", "int8"):
        onnxprune.encode(a, b, values=values, verify=False)
        onnxprune.encode(b, c, values=values, verify=False)
        assert c.read_bytes() == b.read_bytes()


def test_zeros_are_counted_by_value_whatever_the_code(tmp_path):
    array = np.random.default_rng(0).choice(np.array([-0.0, 0.5, 0.25, 3.3], np.float32), (64, 64))
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(matmul(array), path)
    result = onnxprune.encode(path, out, verify=False)
    assert result.parameters["nonzero"] == np.count_nonzero(array)
    (row,) = onnxprune.inspect(out)
    assert row["zeros"] == (array == 0).sum()
    onnx.save(matmul(np.where(array == 0, np.float32(7), array)), path)  # no zero at all
    assert onnxprune.encode(path, out, verify=False).parameters["nonzero"] == array.size
    assert onnxprune.inspect(out)[0]["zeros"] == 0

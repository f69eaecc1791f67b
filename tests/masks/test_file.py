"""Mask files: what is written is what is read, and one error for each fault."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.errors import MaskError
from onnxprune.masks import file as maskfile
from onnxprune.masks.file import KEY, MaskFile
from onnxprune.masks.header import WeightShape
from onnxprune.masks.matching.link import Fold, Link, Parameter, Pruning, Span
from tests.helpers.repository import DATA

GOLDEN = DATA / "masks-1.safetensors"


def example() -> MaskFile:
    """One of everything: a transpose, a merged weight, an alias, a fold, removed rows, an unpruned parameter."""
    fold = Fold("bn.running_var", "bn.running_mean", 1e-5, "bn.weight", "bn.bias", axis=0)
    keep = np.arange(12).reshape(3, 4) % 3 > 0
    return MaskFile(
        model="ab" * 32,
        weights=(
            WeightShape("onnx::MatMul_7", "matmul", (4, 3), {1: (0, 2)}),
            WeightShape("qkv", "gemm", (4, 2)),
            WeightShape("onnx::Conv_9", "conv", (2, 1, 3, 3)),
            WeightShape("onnx::Conv_10", "bias", (2,)),
        ),
        parameters={
            "fc.weight": Parameter(
                (3, 4), (Link("onnx::MatMul_7", order=(1, 0)),), ("tied.weight",),
                Pruning("magnitude{sparsity=0.33}", 0.33, 0.125),
            ),
            "q.weight": Parameter((2, 2), (Link("qkv", into=Span(0, 0, 2)),), (), Pruning()),
            "k.weight": Parameter((2, 2), (Link("qkv", into=Span(0, 2, 4)),)),
            "conv.weight": Parameter((2, 9), (Link("onnx::Conv_9", view=(2, 1, 3, 3), fold=fold),)),
            "bn.running_var": Parameter((2,), (Link("onnx::Conv_10", fold=dataclasses.replace(fold, axis=None)),)),
        },
        masks={"fc.weight": keep, "q.weight": np.array([[True, False], [False, True]])},
    )  # fmt: skip


def same(a: MaskFile, b: MaskFile) -> bool:
    equal = all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)
    return a.facts() == b.facts() and set(a.masks) == set(b.masks) and equal


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_round_trip(tmp_path, suffix):
    paths = [tmp_path / f"{n}.{suffix}" for n in "ab"]
    for path in paths:
        maskfile.write(path, example())
    assert same(maskfile.read(paths[0]), example())
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_golden_file(tmp_path):
    """Version 1 is frozen: what it wrote is read, and written again byte for byte."""
    assert same(maskfile.read(GOLDEN), example())
    maskfile.write(tmp_path / "again.safetensors", example())
    assert (tmp_path / "again.safetensors").read_bytes() == GOLDEN.read_bytes()


def test_any_framework_reads_it(tmp_path):
    """The specification in three lines: no onnxprune needed."""
    from safetensors.numpy import load_file

    masks = load_file(GOLDEN)
    assert {n: m.dtype for n, m in masks.items()} == {"fc.weight": bool, "q.weight": bool}
    assert masks["q.weight"].tolist() == [[True, False], [False, True]]
    maskfile.write(tmp_path / "m.npz", example())
    with np.load(tmp_path / "m.npz") as arrays:
        assert json.loads(str(arrays[KEY]))["version"] == 1


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
bools = hnp.arrays(bool, hnp.array_shapes(max_dims=4, max_side=5))


@given(
    masks=st.dictionaries(names.filter(lambda n: n != KEY), bools, max_size=4),
    number=st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    suffix=st.sampled_from(["npz", "safetensors"]),
)
def test_any_mask(tmp_path, masks, number, suffix):
    file = MaskFile(
        "", tuple(WeightShape(n, "gemm", m.shape) for n, m in masks.items()),
        {n: Parameter(m.shape, (Link(n),), (), Pruning(n, number, number)) for n, m in masks.items()}, masks,
    )  # fmt: skip
    maskfile.write(tmp_path / f"m.{suffix}", file)
    assert same(maskfile.read(tmp_path / f"m.{suffix}"), file)


@given(
    shape=hnp.array_shapes(max_dims=4, max_side=4), data=st.data(),
)  # fmt: skip
def test_a_link_leads_back(shape, data):
    """to_parameter undoes to_weight for any cut, view and order."""
    parameter = np.arange(np.prod(shape)).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    span = Span(axis, start, data.draw(st.integers(start + 1, shape[axis])))
    part = span.of(parameter)
    order = tuple(data.draw(st.permutations(range(part.ndim))))
    weight = tuple(np.array(part.shape)[list(order)])
    link = Link("w", of=span, order=order)
    link.check(shape, weight)
    made = link.to_weight(parameter, weight)
    assert np.array_equal(made, part.transpose(order))
    assert np.array_equal(link.to_parameter(made, shape), part)


# faults ----------------------------------------------------------------------------------------------


def put(path: Path, change=lambda facts: None, arrays=None, header=None) -> Path:
    """A mask file with the header and the tensors changed, and no check on the way."""
    from safetensors.numpy import save_file

    facts = example().facts()
    change(facts)
    tensors = dict(example().masks) | (arrays or {})
    text = json.dumps(facts) if header is None else header
    save_file({n: t for n, t in tensors.items() if t is not None}, path, {KEY: text} if text else {"other": "x"})
    return path


def setter(*path, value):
    def change(facts):
        for key in path[:-1]:
            facts = facts[key]
        facts[path[-1]] = value

    return change


def remover(*path):
    def change(facts):
        for key in path[:-1]:
            facts = facts[key]
        del facts[path[-1]]

    return change


FC = ("parameters", "fc.weight")
HEADERS = {
    "version": (setter("version", value=2), "version 2"),
    "no version": (remover("version"), "version None"),
    "no weights": (remover("weights"), "'weights'"),
    "no shape": (remover(*FC, "shape"), "'fc.weight' lacks the field 'shape'"),
    "no links": (remover(*FC, "links"), "'fc.weight' lacks the field 'links'"),
    "no density": (remover(*FC, "mask", "density"), "'fc.weight' lacks the field 'density'"),
    "shape": (setter(*FC, "shape", value=[4, 3]), "'fc.weight'.*shape"),
    "negative shape": (setter(*FC, "shape", value=[-3, -4]), "'fc.weight'.*-3"),
    "density": (setter(*FC, "mask", "density", value=0.5), "'fc.weight'.*keeps"),
    "reached": (setter(*FC, "mask", "reached", value=0.5), "'fc.weight'.*keeps"),
    "threshold NaN": (setter(*FC, "mask", "threshold", value=float("nan")), "NaN"),
    "threshold Infinity": (setter(*FC, "mask", "threshold", value=float("inf")), "Infinity"),
    "threshold text": (setter(*FC, "mask", "threshold", value="0.1"), "'fc.weight'.*0.1"),
    "rule": (setter(*FC, "mask", "rule", value=3), "'fc.weight'.*3"),
    "mask not described": (remover(*FC, "mask"), "'fc.weight'.*does not describe"),
    "mask missing": (setter("parameters", "k.weight", "mask", value={"rule": None, "requested": None,
                     "threshold": None, "density": 1, "reached": 0}), "'k.weight'.*missing"),
    "duplicate alias": (setter(*FC, "aliases", value=["q.weight"]), "'q.weight' stands for two"),
    "alias twice": (setter(*FC, "aliases", value=["a", "a"]), "'a' stands for two"),
    "alias is itself": (setter(*FC, "aliases", value=["fc.weight"]), "'fc.weight' stands for two"),
    "unknown weight": (setter(*FC, "links", 0, "weight", value="gone"), "'fc.weight'.*'gone'"),
    "order": (setter(*FC, "links", 0, "order", value=[0, 0]), "'fc.weight'.*order"),
    "view": (setter(*FC, "links", 0, "view", value=[5, 5]), "'fc.weight'.*does not fit"),
    "span": (setter(*FC, "links", 0, "of", value=[0, 0, 9]), "'fc.weight'.*0:9"),
    "empty span": (setter(*FC, "links", 0, "of", value=[0, 1, 1]), "'fc.weight'.*1:1"),
    "span axis": (setter(*FC, "links", 0, "into", value=[2, 0, 1]), "'fc.weight'.*axis 2"),
    "overlap": (setter("parameters", "k.weight", "links", value=[{"weight": "qkv", "into": [0, 1, 3]}] * 2), "overlap"),
    "fold of a part": (setter("parameters", "conv.weight", "links", 0, "of", value=[0, 0, 2]), "'conv.weight'.*part"),
    "fold axis": (setter("parameters", "conv.weight", "links", 0, "fold", "axis", value=4), "'conv.weight'.*axis 4"),
    "fold name": (remover("parameters", "conv.weight", "links", 0, "fold", "mean"), "'conv.weight'.*'mean'"),
    "removed index": (setter("weights", 0, "removed", value={"1": [3]}), "'onnx::MatMul_7'.*axis 1"),
    "removed axis": (setter("weights", 0, "removed", value={"2": [0]}), "'onnx::MatMul_7'.*axis 2"),
    "removed order": (setter("weights", 0, "removed", value={"1": [2, 0]}), "'onnx::MatMul_7'.*axis 1"),
    "weight twice": (setter("weights", 1, "name", value="onnx::Conv_9"), "listed twice"),
    "weights no list": (setter("weights", value=3), "header is damaged"),
    "parameters no table": (setter("parameters", value=3), "header is damaged"),
    "parameter no table": (setter(*FC, value=[]), "'fc.weight' is damaged"),
    "model": (setter("model", value=3), "header"),
}  # fmt: skip


@pytest.mark.parametrize("fault", HEADERS)
def test_a_faulty_header(tmp_path, fault):
    change, message = HEADERS[fault]
    with pytest.raises(MaskError, match=message) as caught:
        maskfile.read(put(tmp_path / "m.safetensors", change))
    assert "m.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fc.weight": np.ones((3, 4), np.float32)}, r"'fc\.weight'.*bool, not float32"),
        ({"fc.weight": np.full((3, 4), np.nan, np.float32)}, r"'fc\.weight'.*bool, not float32"),
        ({"fc.weight": np.full((3, 4), 3, np.uint8).view(bool)}, r"'fc\.weight'.*not bool"),
        ({"fc.weight": np.ones((4, 3), bool)}, r"'fc\.weight'.*\[4, 3\]"),
        ({"fc.weight": np.ones((3, 4), bool)}, r"'fc\.weight'.*keeps 1\.0"),
        ({"fc.weight": None}, r"'fc\.weight'.*missing"),
        ({"stray": np.ones(3, bool)}, "'stray'"),
    ],
)
def test_a_faulty_tensor(tmp_path, arrays, message):
    with pytest.raises(MaskError, match=message):
        maskfile.read(put(tmp_path / "m.safetensors", arrays=arrays))


@pytest.mark.parametrize(
    ("header", "message"),
    [("", "no 'onnxprune.masks' header"), ("{", "not JSON"), ("[" * 100_000, "not JSON"), ("[]", "version None")],
)
def test_no_header(tmp_path, header, message):
    with pytest.raises(MaskError, match=message):
        maskfile.read(put(tmp_path / "m.safetensors", header=header))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_every_truncation(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    maskfile.write(path, example())
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(MaskError, match=rf"m\.{suffix}"):
            maskfile.read(path)


@given(at=st.integers(0, 10**6), value=st.integers(0, 255), suffix=st.sampled_from(["npz", "safetensors"]))
def test_a_damaged_byte_is_an_error_or_harmless(tmp_path, at, value, suffix):
    path = tmp_path / f"m.{suffix}"
    maskfile.write(path, example())
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(MaskError):  # and nothing else
        maskfile.read(path)


def test_not_a_mask_file(tmp_path):
    with pytest.raises(MaskError, match="no such file"):
        maskfile.read(tmp_path / "gone")
    with pytest.raises(MaskError, match="regular"):
        maskfile.read(tmp_path)
    for data in (b"", b"hello", b"PK\3\4 nothing", struct.pack("<Q", 2**62) + b"{}", b"\x93NUMPY"):
        (tmp_path / "m").write_bytes(data)
        with pytest.raises(MaskError, match="no mask file"):
            maskfile.read(tmp_path / "m")
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    with pytest.raises(MaskError, match="header"):
        maskfile.read(tmp_path / "data.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(MaskError, match="damaged"):
        maskfile.read(tmp_path / "objects.npz")


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    wrong = dataclasses.replace(example(), masks=example().masks | {"fc.weight": np.ones(3)})
    with pytest.raises(MaskError):
        maskfile.write(tmp_path / "m.safetensors", wrong)
    assert not list(tmp_path.iterdir())

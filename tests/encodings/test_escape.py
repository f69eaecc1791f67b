"""Codes in planes: what is packed comes back, in the fewest bytes of all planes tried, with and without inference."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.positions import chunks
from onnxprune.encodings.positions.escape import Escape
from onnxprune.encodings.positions.planes import NODES, Plane, best, frequent_first, split
from onnxprune.encodings.sparse import Sparse
from onnxprune.errors import ModelError
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.running import arrays, feeds_of, load, run, serialise

ESCAPE = Escape()


@st.composite
def skewed(draw) -> Sparse:
    """Codes whose shares fall: by a constant factor, to a few, or to none of some."""
    levels, size = draw(st.integers(4, 256)), draw(st.integers(1, 3000))
    shares = np.geomspace(1, draw(st.floats(1e-6, 1)), levels)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rng.shuffle(shares)
    codes = rng.choice(levels, (1, size), p=shares / shares.sum()).astype(np.uint8)
    return Sparse.of(codes, np.float16(0), np.arange(levels).astype(np.float16))


def unpacked(sparse: Sparse, parts) -> np.ndarray:
    dense = np.full(sparse.size, -1, np.float16)
    for positions, values in ESCAPE.unpack(parts, sparse.shape):
        dense[positions] = values
    return dense.reshape(sparse.shape)


@given(sparse=skewed())
def test_any_codes_come_back(sparse):
    parts = ESCAPE.pack(sparse)
    np.testing.assert_array_equal(unpacked(sparse, parts), sparse.carrier.whole().astype(np.float16))
    assert parts["book"][0] == sparse.codebook[0]  # what a pruned entry holds
    assert ESCAPE.least(sparse) <= ESCAPE.payload(sparse)


@given(sparse=skewed())
def test_planes_hold_every_code_once(sparse):
    counts = sparse.counts[frequent_first(sparse.counts)]
    planes = split(counts)
    first = int(counts[0] == 0)
    assert [plane.escapes for plane in planes] == [True] * (len(planes) - 1) + [False]
    held = [code for plane in planes for code in range(plane.base, plane.base + plane.codes)]
    assert held == list(range(first, len(counts)))
    left = sparse.size
    for number, plane in enumerate(planes):
        assert plane.entries == left + bool(number)
        left -= counts[plane.base : plane.base + plane.codes].sum()
    assert left == 0


def bytes_of(counts: np.ndarray, radices: tuple[int, ...]) -> float:
    """What planes take in whole words, a plane at a time."""
    total, at = 0.0, 0
    for radix in radices:
        total += Plane(int(counts[at:].sum()), 0, radix - 1, True).nbytes + NODES
        at += radix - 1
    rest = len(counts) - at
    return total + Plane(int(counts[at:].sum()), 0, rest, False).nbytes if rest >= 2 else np.inf


@settings(max_examples=20)
@given(levels=st.integers(4, 40), low=st.floats(1e-5, 1), size=st.sampled_from([300, 10_000, 1_000_000]))
def test_no_two_planes_with_an_escape_would_be_smaller(levels, low, size):
    counts = np.floor(size * np.geomspace(1, low, levels))
    found, (taken,) = best(counts[None], np.array([levels]))
    assert bytes_of(counts, taken) == pytest.approx(found[0], rel=1e-3, abs=30)
    tried = [(), *product(range(2, 17), repeat=1), *product((2, 3, 4, 5, 7, 9), repeat=2)]
    # radices between those that fill a word take the bits of the next that does
    assert bytes_of(counts, taken) <= 1.01 * min(bytes_of(counts, each) for each in tried) + 40


def test_a_normal_distribution_takes_little_more_than_its_entropy():
    """Bits an entry of 21 levels, 0.4 standard deviations apart: entropy 3.38, planes 3.52, codes of one width 4.57."""
    codes = np.clip(np.rint(normal(1, 1_000_000) / 0.4), -10, 10).astype(np.int64)
    codes = np.where(codes < 0, 10 - codes, codes).astype(np.uint8)
    sparse = Sparse.of(codes, np.float16(0), np.arange(21).astype(np.float16))
    shares = sparse.counts / sparse.size
    entropy = -(shares * np.log2(shares)).sum()
    assert entropy < 8 * ESCAPE.payload(sparse) / sparse.size < 1.05 * entropy


def test_code_0_without_entries_takes_no_number():
    codes = np.resize(np.arange(1, 10), (1, 10_000)).astype(np.uint8)
    sparse = Sparse.of(codes, np.float16(0), np.arange(10).astype(np.float16))
    assert split(sparse.counts[frequent_first(sparse.counts)]) == [Plane(10_000, 1, 9, False)]
    np.testing.assert_array_equal(unpacked(sparse, ESCAPE.pack(sparse)), codes.astype(np.float16))


def few_levels() -> onnx.ModelProto:
    """A matrix of 31 values, the small ones frequent."""
    weight = (np.rint(normal(64, 384) * 4).clip(-15, 15) / 8).astype(np.float32)
    return model([node("MatMul", ["x", "w"], ["y"])], [info("x", ["N", 64])], [info("y", ["N", 384])], {"w": weight})


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_a_weight_is_folded_and_comes_back(opset):
    proto = few_levels()
    proto.opset_import[0].version = opset
    opened = load(proto)
    before = arrays(opened)
    Encode(encoding="escape", values="exact").run(opened)
    (group,) = encoded_weights(opened)
    assert group.encoding == "escape"
    feeds = feeds_of(proto)
    for optimised in (True, False):
        np.testing.assert_allclose(run(serialise(opened), feeds, optimised=optimised)[0], run(proto, feeds)[0], 1e-5)
    Decode().run(opened)
    assert arrays(opened) == before


def test_it_is_the_smallest_where_codes_are_skewed():
    sizes = {}
    for encoding in ("auto", "escape", "dense", "bitmask", "flat", "rows"):
        opened = load(few_levels())
        Encode(encoding=encoding, values="exact").run(opened)
        sizes[encoding] = len(serialise(opened))
    assert sizes["auto"] == sizes["escape"] < 0.88 * min(sizes[name] for name in ("dense", "bitmask", "flat", "rows"))


def test_nothing_but_inference_of_shapes_is_needed():
    """A tool that drops value_info leaves it folded, in functions too."""
    opened = load(few_levels())
    Encode(encoding="escape", values="exact").run(opened)
    assert not opened.proto.graph.value_info
    opened = load(MODELS["function"][0]())
    Encode(encoding="escape", values="shared:3").run(opened)
    assert {group.encoding for group in encoded_weights(opened)} == {"escape"}


def test_chunks_share_a_book(monkeypatch):
    codes = np.resize(np.repeat(np.arange(16), np.arange(16, 0, -1)), (60, 40)).astype(np.uint8)
    sparse = Sparse.of(np.sort(codes, axis=0), np.float16(0), np.arange(16).astype(np.float16))
    whole = ESCAPE.pack(sparse)["book"]
    ranges = chunks.row_ranges(ESCAPE, sparse, 8000)
    assert len(ranges) == 2
    for rows in ranges:
        part = sparse.within(rows)
        parts = ESCAPE.pack(part)
        np.testing.assert_array_equal(parts["book"], whole)
        np.testing.assert_array_equal(unpacked(part, parts), part.carrier.whole().astype(np.float16))


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        ("p0codes", lambda words: words[..., :3], "plane 0 ends after"),
        ("p1codes", lambda words: words[..., :1], "plane 1 ends after"),
        ("p1codes", None, "a plane is missing"),
        ("book", lambda book: book[:2], "out of bounds"),
    ],
)
def test_damage_is_told(part, change, why):
    opened = load(few_levels())
    Encode(encoding="escape", values="exact").run(opened)
    (group,) = encoded_weights(opened)
    tensor = group.constants[group.prefix + part]
    if change is None:
        del group.constants[group.prefix + part]
    else:
        opened.replace(tensor, np.ascontiguousarray(change(opened.array(tensor))))
    with pytest.raises(ModelError, match=f"is damaged: .*{why}"):
        group.array(opened)


def test_a_weight_in_planes_is_known_again():
    """The book has the frequent values first; levels ascend where a weight is coded."""
    opened = load(few_levels())
    Encode(encoding="escape", values="shared:5").run(opened)
    (group,) = encoded_weights(opened)
    coding = group.coding(opened)
    assert coding is not None
    assert coding.codebook.tolist() == [0.0, *sorted(coding.codebook[1:].tolist())]
    first = serialise(opened)
    Decode().run(opened)
    Encode(encoding="escape", values="shared:5").run(opened)
    assert serialise(opened) == first

"""Numbers packed into words: what is packed comes back, in numpy and in ONNX Runtime, in as few bytes as can be."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.encodings import GRAPH
from onnxprune.encodings.nodes import Builder
from onnxprune.encodings.positions import digits as words
from onnxprune.encodings.positions import gaps, planes
from onnxprune.encodings.positions.digits import LAYOUTS, DigitLayout, layout_for
from onnxprune.encodings.sparse import Sparse
from onnxprune.model.encoded_names import Mark
from tests.helpers.builders import info, model, node
from tests.helpers.running import newest_opset, run

RADICES = st.sampled_from([2, 3, 5, 15, 16, 17, 40, 138, 255, 256, 257, 65536, 2**31]) | st.integers(2, 2**31)


@st.composite
def layouts(draw) -> DigitLayout:
    """A layout with its largest radix or any smaller one."""
    layout = draw(st.sampled_from(LAYOUTS))
    return DigitLayout(layout.dtype, layout.digits, draw(st.just(layout.radix) | st.integers(2, layout.radix)))


def numbers_below(radix: int, shape, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed).integers(0, min(radix, 2**62), shape, np.int64)
    numbers.reshape(-1)[:1] = min(radix, 2**62) - 1  # the largest
    return numbers


@given(layout=layouts(), count=st.integers(0, 140), rows=st.none() | st.integers(0, 5), seed=st.integers(0, 99))
def test_unpack_restores_what_pack_packed(layout, count, rows, seed):
    shape = (count,) if rows is None else (rows, count)
    numbers = numbers_below(layout.radix, shape, seed)
    parts = words.pack(numbers, layout, "n")
    back = words.unpack(parts, "n")
    np.testing.assert_array_equal(back[..., :count], numbers)
    assert not back[..., count:].any()
    assert back.shape[-1] - count < layout.digits
    assert parts["n"].nbytes == layout.nbytes(count) * (1 if rows is None else rows)
    assert parts["n"].dtype == layout.dtype


@pytest.mark.parametrize("version", [10, 11, 13, 17, 21, newest_opset()])
def test_the_runtime_unpacks_the_same_numbers(version):
    """Every layout in one model, at its largest radix that is an int32 and at 3; one number, a few, and rows."""
    nodes, outs, held, expected = [], [], {}, []
    for i, layout in enumerate(LAYOUTS):
        for j, shape in enumerate([(1,), (layout.digits + 1,), (3, 5)]):
            top = min(layout.radix, 2**31)
            shaped = DigitLayout(layout.dtype, layout.digits, max(2, min(3, top)) if j == 2 else top)
            parts = words.pack(numbers_below(shaped.radix, shape), shaped, "n")
            build = Builder(f"{i}.{j}.", f"y{i}.{j}", Mark("dense", "shared", "", "FLOAT", "~0"), version)
            words.emit(build, parts, "n")
            nodes += build.nodes
            held |= build.constants
            last = build.nodes[-1].output[0] if build.nodes else f"{i}.{j}.n"
            nodes.append(node("Identity", [last], [f"y{i}.{j}"]))
            outs.append(info(f"y{i}.{j}", None, 6))
            expected.append(words.unpack(parts, "n"))
    nodes.append(node("Identity", ["x"], ["z"]))
    got = run(model(nodes, [info("x", [1])], [*outs, info("z", [1])], held, version), {"x": np.zeros(1, np.float32)})
    for ours, theirs in zip(expected, got[:-1], strict=True):
        assert theirs.dtype == np.int32
        np.testing.assert_array_equal(theirs.reshape(ours.shape), ours)


@given(radix=RADICES, count=st.integers(0, 3000) | st.integers(1 << 17, 1 << 20))
def test_no_other_layout_takes_fewer_bytes(radix, count):
    chosen = layout_for(radix, count)
    assert chosen.radix == radix
    assert any(each.dtype == chosen.dtype and each.digits == chosen.digits and each.radix >= radix for each in LAYOUTS)
    least = min(each.nbytes(count) for each in LAYOUTS if each.radix >= radix)
    assert chosen.nbytes(count) == least


@given(layout=st.sampled_from(LAYOUTS))
def test_a_layout_fills_its_word(layout):
    room = 2 ** (8 * layout.dtype.itemsize - (layout.dtype.kind == "i"))
    assert layout.radix**layout.digits <= room < (layout.radix + 1) ** layout.digits


# gaps and codes in one symbol ----------------------------------------------------------------------------


@st.composite
def coded(draw) -> Sparse:
    """Sparse codes with a codebook, with gaps from none to beyond the largest cap."""
    shape = draw(
        st.sampled_from(
            [(1,), (2,), (1, 1), (1, 700), (700, 1), (3, 517), (2, 3, 301), (255, 3), (9000,), (70000,), (2, 66000)]
        )
    )
    levels = draw(st.integers(2, 256))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    size = int(np.prod(shape))
    share = draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]))
    codes = np.where(rng.random(size) < share, rng.integers(1, levels, size), 0).astype(np.uint8)
    if draw(st.booleans()):
        codes[[0, -1]] = levels - 1
    codebook = np.concatenate([[0.0], rng.standard_normal(levels - 1)]).astype(np.float16)
    return Sparse.of(codes.reshape(shape), np.zeros((), np.float16), codebook)


def decoded(encoding, sparse: Sparse) -> np.ndarray:
    dense = np.full(sparse.size, sparse.fill_value)
    for positions, values in encoding.unpack(encoding.pack(sparse), sparse.shape):
        dense[positions] = values
    return dense.reshape(sparse.shape)


@pytest.mark.parametrize("encoding", GRAPH.values(), ids=GRAPH)
@given(sparse=coded())
def test_codes_come_back_through_every_encoding(encoding, sparse):
    assert sparse.codebook is not None
    np.testing.assert_array_equal(decoded(encoding, sparse), sparse.codebook[sparse.carrier.whole()])
    parts = encoding.pack(sparse)
    around = {"powers", "radix", "levels", "base", "escape"}  # what takes words apart is counted with the nodes
    arrays = sum(part.nbytes for name, part in parts.items() if re.sub(r"^p\d", "", name) not in around)
    further = max(0, sum(name.endswith("codes") for name in parts) - 1)
    assert encoding.payload(sparse) == arrays + planes.NODES * further
    assert encoding.least(sparse) <= encoding.payload(sparse)


@given(sparse=coded())
def test_joint_symbols_take_no_more_than_any_one_width(sparse):
    assert sparse.codebook is not None
    distances, levels = np.diff(sparse.positions, prepend=0), len(sparse.codebook)
    joint = gaps.joint_for(gaps.Distances.of(distances), levels)
    assert joint.entries == len(distances) + int(gaps.fillers(distances, joint.cap).sum())
    for cap in (1, 3, 15, 255, 4000):
        entries = len(distances) + int(gaps.fillers(distances, cap).sum())
        least = min(e.nbytes(entries) for e in LAYOUTS if e.radix >= levels * (cap + 1))
        assert joint.nbytes <= 1.1 * least + 8

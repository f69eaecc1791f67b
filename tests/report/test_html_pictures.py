"""The numbers behind the pictures of the HTML report."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxprune.pipeline.change import Removed
from onnxprune.report.html import pictures, statistics
from tests.helpers.builders import info, model, node
from tests.helpers.running import put

ANY = arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32) | st.just(0.0))


@given(st.lists(ANY, min_size=1, max_size=2))
def test_a_histogram_counts_every_entry_once(found):
    counted = statistics.histogram(found)
    for number, array in enumerate(found):
        finite = array[np.isfinite(array) & (array != 0)]
        assert counted.zeros[number] == (array == 0).sum()
        assert counted.strange[number] == (~np.isfinite(array)).sum()
        assert counted.counts[number].sum() == finite.size
        below = statistics.BINS // 2  # bins left of the middle one, and those right of it, hold one sign each
        assert counted.counts[number][:below].sum() <= (finite < 0).sum()
        assert counted.counts[number][below + 1 :].sum() <= (finite > 0).sum()
    everything = np.concatenate(found)
    assert counted.limit == np.abs(everything[np.isfinite(everything)]).max(initial=0)


def test_a_histogram_is_numpys():
    values = np.random.default_rng(0).standard_normal(500_000)
    counted = statistics.histogram([values])
    expected = np.histogram(values, statistics.BINS, (-counted.limit, counted.limit))[0]
    assert np.abs(counted.counts[0] - expected).max() <= 1, "an edge may round to either side"


@given(st.integers(1, 900), st.integers(1, 1700), st.integers(0, 2**32 - 1))
def test_a_pattern_keeps_the_count(rows, columns, seed):
    kept = np.random.default_rng(seed).random((rows, columns)) < 0.1
    found = statistics.pattern(kept)
    tall, wide = found.block
    heights = np.diff(np.arange(0, rows, tall), append=rows)
    widths = np.diff(np.arange(0, columns, wide), append=columns)
    assert found.shares.shape == (len(heights), len(widths))
    assert (found.shares * np.outer(heights, widths)).sum() == pytest.approx(kept.sum(), rel=1e-4, abs=1e-4)
    assert found.shares.shape <= (400, 800)
    if found.block == (1, 1):
        assert np.array_equal(found.shares, kept)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_what_was_cut_out_is_put_back_where_it_was(rows, columns, data):
    full = np.random.default_rng(0).random((rows, columns)) < 0.5
    boundaries, left = [], full
    for axis, size_ in enumerate((rows, columns)):
        gone = sorted(data.draw(st.sets(st.integers(0, size_ - 1), max_size=size_ - 1)))
        boundaries.append(Removed("w", axis, size_, size_ - len(gone), gone))
        left = np.delete(left, gone, axis)
        full[(slice(None),) * axis + (gone,)] = False
    assert np.array_equal(statistics.put_back(left, "w", [*boundaries, Removed("other", 0, 99, rows, [])]), full)


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 20)), elements=st.floats(0, 1, width=32)))
def test_a_png_holds_the_shares(shares):
    data = b64decode(pictures.png(shares).removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    width, height, bits = struct.unpack(">IIB", chunks[b"IHDR"][:9])
    assert (height, width) == shares.shape
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    digits = np.unpackbits(lines[:, 1:], axis=1)[:, : width * bits].reshape(height, width, bits)
    opacity = np.array(list(chunks[b"tRNS"]))[digits @ (1 << np.arange(bits)[::-1])] / 255
    assert np.abs(opacity - shares).max() <= 1 / 15 + 1e-6
    assert np.array_equal(opacity == 0, shares == 0)


@pytest.mark.parametrize(
    ("shape", "between", "expected"),
    [
        (["N", 1, 28, 28], "Flatten", (28, 28)),
        (["N", 3, 16, 16], "Flatten", (16, 16)),
        (["N", 768], "Relu", None),
        (["N", 16, 16, 3], "Transpose", None),
    ],
)
def test_pixels_of_an_image_are_told_from_the_graph(tmp_path, shape, between, expected):
    size_ = int(np.prod(shape[1:]))
    array = np.random.default_rng(0).standard_normal((size_, 32)).astype(np.float32)
    array[np.abs(array) < 1] = 0
    nodes = [node(between, ["x"], ["h"]), node("Flatten", ["h"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    path = put(tmp_path / "m.onnx", model(nodes, [info("x", shape)], [info("y", ["N", 32])], {"w": array}))
    if between == "Transpose":
        nodes[0].attribute.append(onnx.helper.make_attribute("perm", [0, 2, 1, 3]))
    from onnxprune.api.result import Deviation
    from onnxprune.report.html.contents import gather

    (found,) = gather(path, None, None, Deviation("none"), None, (), {}, tmp_path).sketches
    if expected is None:
        assert found.image is None
    else:
        counts = (array != 0).sum(1).reshape(shape[1], *expected).sum(0)
        assert np.array_equal(found.image, counts)


@given(st.text(max_size=60), st.integers(5, 40))
def test_shortened(name, room):
    shown = pictures.shortened(name, room)
    assert len(shown) <= room
    assert shown.isprintable()
    if name.isprintable() and len(name) <= room:
        assert shown == name

"""Arrays filled piece by piece, in memory and in a file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core import filled
from onnxprune.core.chunked import EVERY, ChunkedArray, ranges
from onnxprune.core.filled import FilledArray, beside
from onnxprune.core.scattered import slabs
from onnxprune.errors import OutputError


@pytest.fixture(params=[1 << 30, 0], ids=["memory", "file"])
def place(request, monkeypatch, tmp_path):
    monkeypatch.setattr(filled, "IN_MEMORY", request.param)
    monkeypatch.setattr(filled, "_WINDOW", 1 << 12)
    with beside(tmp_path):
        yield tmp_path


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(70,), (60, 70), (64, 7, 11)])
def test_rows_and_columns_come_back(place, shape, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    held = FilledArray(shape, dtype)
    for rows in ranges(0, shape[0], 9):
        held.put(rows, EVERY, array[slice(*rows)])
    if len(shape) > 1:
        array = array[:, ::-1]
        for columns in ranges(0, shape[1], 3):
            held.put((0, shape[0]), slice(*columns), array[:, slice(*columns)])
    np.testing.assert_array_equal(held.chunked().whole(), array)
    np.testing.assert_array_equal(held.chunked().read(5, 40, EVERY), array[5:40])
    np.testing.assert_array_equal(held.chunked((array.size // 7, 7)).whole(), array.reshape(-1, 7))
    assert not list(place.iterdir())  # the file has no name


def test_a_part_of_another_shape_is_refused(place):
    held = FilledArray((4, 6), np.float32)
    with pytest.raises(ValueError, match=r"\(1, 6\) does not fit into \(2, 6\)"):
        held.put((0, 2), EVERY, np.zeros((1, 6), np.float32))


def test_a_full_disk_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(filled, "IN_MEMORY", 0)
    with beside(tmp_path), pytest.raises(OutputError, match="the disk has"):
        FilledArray((1 << 50, 8), np.uint8)


@given(st.data())
def test_slabs_are_the_whole_tensor(data):
    shape = data.draw(st.sampled_from([(30,), (12, 5), (6, 5, 2)]))
    size = int(np.prod(shape))
    positions = np.array(sorted(data.draw(st.lists(st.integers(0, size - 1), max_size=40))), np.int64)
    values = np.arange(len(positions), dtype=np.float32)
    whole = np.full(size, 7, np.float32)
    whole[positions] = values
    step, rows = data.draw(st.integers(1, 9)), ranges(0, shape[0], data.draw(st.integers(1, 31)))
    pieces = [(positions[slice(*part)], values[slice(*part)]) for part in ranges(0, len(positions), step)]
    found = np.concatenate(list(slabs(pieces, shape, rows, np.full(1, 7, np.float32))))
    np.testing.assert_array_equal(found, whole.reshape(shape))


@pytest.mark.parametrize("positions", [[3, 2], [-1, 2], [2, 40], [40]])
def test_positions_that_descend_or_leave_the_tensor_are_refused(positions):
    pieces = [(np.array(positions), np.ones(len(positions), np.float32))]
    with pytest.raises(ValueError, match=r"descend|comes after|beyond"):
        list(slabs(pieces, (10, 4), ChunkedArray.rows_of((10, 4)), np.zeros(1, np.float32)))

"""--data: arrays named after a model's inputs, leading axis = samples, from an .npz file or a folder."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.errors import DataError
from onnxprune.runtime import Feeds, Input

BATCH = 32


def load(path: Path, inputs: list[Input], samples: int | None = None) -> tuple[list[Feeds], int]:
    """The data cut into feeds that the model takes, and how many samples they hold.

    An array of the input's own rank is cut along its first axis, into batches where that axis is
    free and into pieces of its size where it is fixed; an array with one axis more holds whole
    inputs, one per sample.

    Raises:
        DataError: the file cannot be read, a name is missing or unknown, a shape or type does not fit.
    """
    arrays = _read(path)
    names = {i.name for i in inputs}
    for name in sorted(names - arrays.keys()):
        raise DataError(f"{path} holds no array named '{name}'; the model's inputs are {', '.join(sorted(names))}")
    for name in sorted(arrays.keys() - names):
        raise DataError(f"{path}: '{name}' is not an input; the model's inputs are {', '.join(sorted(names))}")
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: the arrays differ in their number of samples: {counts}")
    count = min(next(iter(counts.values()), 0), samples or 2**62)
    if not count:
        raise DataError(f"{path} holds no samples")
    whole = {i.name: _check(path, i, arrays[i.name]) for i in inputs}
    step = _step(path, inputs, whole, count)
    usable = count - count % step if any(_fixed(i) for i in inputs if not whole[i.name]) else count
    feeds: list[Feeds] = [
        {
            i.name: arrays[i.name][at, ...] if whole[i.name] else arrays[i.name][at : min(at + step, count)]
            for i in inputs
        }
        for at in range(0, usable, step)
    ]
    return feeds, usable


def pieces(inputs: list[Input], feed: Feeds, size: int) -> list[Feeds]:
    """A feed in pieces of at most `size` samples, where its inputs have a free leading axis of samples."""
    free = all(item.shape and not _fixed(item) for item in inputs)
    count = max((len(value) for value in feed.values() if value.ndim), default=0)
    if not free or not count or any(not value.ndim or len(value) != count for value in feed.values()):
        return [feed]
    return [{k: v[at : at + size] for k, v in feed.items()} for at in range(0, count, size)]


def _read(path: Path) -> dict[str, Array]:
    """Arrays by name; a folder holds NAME.npy files, or .npz files whose samples follow each other."""
    try:
        if not path.is_dir():
            with path.open("rb") as handle:
                file = np.load(handle, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise DataError(f"{path} is a single array: give an .npz file, or a folder of NAME.npy files")
                return {name: file[name] for name in file.files}
        bundles = [_read(file) for file in sorted(path.glob("*.npz"))]
        if bundles:
            return {name: np.concatenate([bundle[name] for bundle in bundles]) for name in bundles[0]}
        return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read the data in {path}: {error}") from error


def _check(path: Path, item: Input, array: Array) -> bool:
    """Whether each sample is a whole input; DataError where the array cannot be one at all."""
    if item.dtype is None or not np.can_cast(array.dtype, item.dtype, "no"):
        raise DataError(f"{path}: '{item.name}' is {array.dtype}, the model wants {item.type}")
    whole = array.ndim == len(item.shape) + 1
    given = array.shape[1:]
    wanted = item.shape if whole else item.shape[1:]
    fits = array.ndim in (len(item.shape), len(item.shape) + 1) and all(
        not isinstance(w, int) or w == g for w, g in zip(wanted, given, strict=True)
    )
    if not fits:
        raise DataError(f"{path}: '{item.name}' has shape {array.shape}, the model wants {item.shape}")
    return whole


def _fixed(item: Input) -> int | None:
    first = item.shape[0] if item.shape else None
    return first if isinstance(first, int) else None


def _step(path: Path, inputs: list[Input], whole: dict[str, bool], count: int) -> int:
    """Samples per run."""
    if any(whole.values()):
        return 1
    fixed = {size for i in inputs if (size := _fixed(i))}
    if len(fixed) > 1 or (fixed and min(fixed) > count):
        raise DataError(f"{path}: {count} samples do not fill the model's fixed batch of {sorted(fixed)}")
    return fixed.pop() if fixed else BATCH

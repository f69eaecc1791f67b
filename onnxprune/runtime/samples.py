"""--data: arrays named after a model's inputs, and `targets`, leading axis = samples: an .npz file or a folder."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.errors import DataError
from onnxprune.runtime.session import Feeds, Input

BATCH = 32
TARGETS = "targets"


@dataclass(frozen=True)
class Samples:
    """Samples cut into feeds.

    Attributes:
        feeds: what the model is run on, one after the other.
        count: how many samples they hold.
        arrays: the same samples whole, by name, `targets` among them.
        targets: those of each feed; None where the data has none.
    """

    feeds: list[Feeds]
    count: int
    arrays: dict[str, Array]
    targets: list[Array] | None = None


def load(
    path: Path, inputs: list[Input], samples: int | None = None, half: int | None = None
) -> tuple[list[Feeds], int]:
    """The feeds in a file or folder, and how many samples they hold.

    Args:
        path: an .npz file, or a folder of NAME.npy files or of .npz files whose samples follow each other.
        inputs: of the model.
        samples: at most so many, the first ones.
        half: see `cut`.

    Raises:
        DataError: the file cannot be read, or `cut` does not take it.
    """
    found = cut(read(path), str(path), inputs, samples, half)
    return found.feeds, found.count


def cut(
    arrays: dict[str, Array], where: str, inputs: list[Input], samples: int | None = None, half: int | None = None
) -> Samples:
    """The data cut into feeds that the model takes.

    An array of the input's own rank is cut along its first axis, into batches where that axis is
    free and into pieces of its size where it is fixed; an array with one axis more holds whole
    inputs, one per sample. An array `targets` that is no input of the model is what the outputs are held against.

    Args:
        arrays: by name.
        where: what errors call them.
        inputs: of the model.
        samples: at most so many, the first ones.
        half: 0 or 1: only these of a shuffle that is always the same, before `samples` counts. Neighbours may be alike,
            so that every other sample would not do: MNIST alternates between two groups of writers.

    Raises:
        DataError: a name is missing or unknown, a shape or type does not fit.
    """
    names = {i.name for i in inputs}
    for name in sorted(names - arrays.keys()):
        raise DataError(f"{where} holds no array named '{name}'; the model's inputs are {', '.join(sorted(names))}")
    for name in sorted(arrays.keys() - names - {TARGETS}):
        raise DataError(f"{where}: '{name}' is not an input; the model's inputs are {', '.join(sorted(names))}")
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: the arrays differ in their number of samples: {counts}")
    arrays = _chosen(arrays, next(iter(counts.values()), 0), samples, half)
    count = len(next(iter(arrays.values()), ()))
    if not count:
        raise DataError(f"{where} holds no samples" + ("" if half is None else " for a half"))
    whole = {i.name: _check(where, i, arrays[i.name]) for i in inputs}
    step = _step(where, inputs, whole, count)
    usable = count - count % step if any(fixed(i) for i in inputs if not whole[i.name]) else count
    boundaries = [slice(at, min(at + step, count)) for at in range(0, usable, step)]
    feeds: list[Feeds] = [
        {i.name: arrays[i.name][at.start, ...] if whole[i.name] else arrays[i.name][at] for i in inputs}
        for at in boundaries
    ]
    targets = None if TARGETS in names else arrays.get(TARGETS)
    return Samples(
        feeds, usable, {name: array[:usable] for name, array in arrays.items()},
        None if targets is None else [targets[at] for at in boundaries],
    )  # fmt: skip


def pieces(inputs: list[Input], feed: Feeds, size: int) -> list[Feeds]:
    """A feed in pieces of at most `size` samples, where its inputs have a free leading axis of samples."""
    free = all(item.shape and not fixed(item) for item in inputs)
    count = max((len(value) for value in feed.values() if value.ndim), default=0)
    if not free or not count or any(not value.ndim or len(value) != count for value in feed.values()):
        return [feed]
    return [{k: v[at : at + size] for k, v in feed.items()} for at in range(0, count, size)]


def _chosen(arrays: dict[str, Array], count: int, samples: int | None, half: int | None) -> dict[str, Array]:
    """The samples that are asked for, in the order of the file."""
    if half is None:
        return {name: array[:samples] for name, array in arrays.items()} if count else {}
    drawn = np.random.default_rng(0).permutation(count)
    kept = np.sort(drawn[: -(-count // 2)] if half == 0 else drawn[-(-count // 2) :])[:samples]
    return {name: array[kept] for name, array in arrays.items()} if count else {}


def read(path: Path) -> dict[str, Array]:
    """Arrays by name; a folder holds NAME.npy files, or .npz files whose samples follow each other.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as handle:
                file = np.load(handle, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise DataError(f"{path} is a single array: give an .npz file, or a folder of NAME.npy files")
                return {name: file[name] for name in file.files}
        bundles = [read(file) for file in sorted(path.glob("*.npz"))]
        if bundles:
            return {name: np.concatenate([bundle[name] for bundle in bundles]) for name in bundles[0]}
        return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read the data in {path}: {error}") from error


def _check(where: str, item: Input, array: Array) -> bool:
    """Whether each sample is a whole input; DataError where the array cannot be one at all."""
    if item.dtype is None or not np.can_cast(array.dtype, item.dtype, "no"):
        raise DataError(f"{where}: '{item.name}' is {array.dtype}, the model wants {item.type}")
    whole = array.ndim == len(item.shape) + 1
    given = array.shape[1:]
    wanted = item.shape if whole else item.shape[1:]
    fits = array.ndim in (len(item.shape), len(item.shape) + 1) and all(
        not isinstance(w, int) or w == g for w, g in zip(wanted, given, strict=True)
    )
    if not fits:
        raise DataError(f"{where}: '{item.name}' has shape {array.shape}, the model wants {item.shape}")
    return whole


def fixed(item: Input) -> int | None:
    """The size of an input's first axis; None where it is free."""
    first = item.shape[0] if item.shape else None
    return first if isinstance(first, int) else None


def _step(where: str, inputs: list[Input], whole: dict[str, bool], count: int) -> int:
    """Samples per run."""
    if any(whole.values()):
        return 1
    sizes = {size for i in inputs if (size := fixed(i))}
    if len(sizes) > 1 or (sizes and min(sizes) > count):
        raise DataError(f"{where}: {count} samples do not fill the model's fixed batch of {sorted(sizes)}")
    return sizes.pop() if sizes else BATCH

"""Samples: arrays named after a model's inputs, and `targets`, in an .npz file, a folder or memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.core.signatures import no_arrays
from onnxprune.errors import DataError, RuntimeFailure
from onnxprune.runtime import held_data
from onnxprune.runtime.held_data import UNNAMED, Given, Part
from onnxprune.runtime.session import Feeds, Input, inputs_of, run

if TYPE_CHECKING:
    import onnxruntime as ort

BATCH, NUMBERS = 32, 1 << 20  # a batch where it may be any: so many samples, of so many numbers together
TARGETS = "targets"


@dataclass(frozen=True)
class Samples:
    """Samples cut into feeds.

    Attributes:
        feeds: what the model is run on, one after the other.
        count: how many samples they hold.
        arrays: the same samples whole, by name, `targets` among them.
        targets: those of each feed; None where the data has none.
        whole: whether each feed is one sample, so that no axis of it counts samples.
    """

    feeds: list[Feeds]
    count: int
    arrays: dict[str, Array]
    targets: list[Array] | None = None
    whole: bool = False

    def pieces(self, inputs: list[Input], size: int) -> list[Feeds]:
        """The feeds in pieces of at most `size` samples, where samples can be told apart."""
        return [piece for feed in self.feeds for piece in self._pieces(inputs, feed, size)]

    def single(self, inputs: list[Input]) -> Feeds:
        """The first sample, where samples can be told apart; else the first feed."""
        return self._pieces(inputs, self.feeds[0], 1)[0]

    def _pieces(self, inputs: list[Input], feed: Feeds, size: int) -> list[Feeds]:
        """A feed in pieces, where its inputs have a free leading axis of samples."""
        free = not self.whole and all(item.shape and not fixed(item) for item in inputs)
        count = max((len(value) for value in feed.values() if value.ndim), default=0)
        if not free or not count or any(not value.ndim or len(value) != count for value in feed.values()):
            return [feed]
        return [{k: v[at : at + size] for k, v in feed.items()} for at in range(0, count, size)]

    @property
    def judging(self) -> bool:
        """Whether there are targets that judge where no metric is named: text is for a function of the user's."""
        return self.targets is not None and all(part.dtype.kind not in "SU" for part in self.targets)


def load(
    path: Path, session: ort.InferenceSession, samples: int | None = None, half: int | None = None
) -> tuple[Samples, list[Input]]:
    """The samples in a file or folder, and the inputs that they are cut for, see `runnable`.

    Args:
        path: an .npz file, an .npy file for the only input, a folder of NAME.npy files or of .npz files whose samples
            follow each other, each a run where sizes differ, or a name of `held_data`.
        session: of the model.
        samples: at most so many, the first ones.
        half: see `cut`.

    Raises:
        DataError: the file cannot be read, or `cut` does not take it.
    """
    given, inputs = runnable(session, read(path), str(path))
    return cut(given, str(path), inputs, samples, half), inputs


def cut(
    given: Given, where: str, inputs: list[Input], samples: int | None = None, half: int | None = None,
    fold: tuple[int, int] | None = None,
) -> Samples:  # fmt: skip
    """The data cut into feeds that the model takes.

    An array of the input's own rank is cut along its first axis, into batches where that axis is
    free and into pieces of its size where it is fixed; an array with one axis more holds whole
    inputs, one per sample. An input without an axis for samples (a scalar, a state whose first axis is fixed) takes one
    value for all. An array of arrays holds whole inputs of unequal sizes. An array `targets` that is no input of the
    model is what the outputs are held against.

    Args:
        given: arrays by name, one that is `UNNAMED` for the only input, or batches or samples.
        where: what errors call them.
        inputs: of the model.
        samples: at most so many, the first ones, or a batch where the model takes no fewer.
        half: 0 or 1: only these of a shuffle that is always the same, before `samples` counts. Neighbours may be alike,
            so that every other sample would not do: MNIST alternates between two groups of writers.
        fold: (number, folds): of these only every so manieth, from that number on.

    Raises:
        DataError: a name is missing or unknown, a shape or type does not fit.
    """
    names = {i.name for i in inputs}
    arrays = _named(given, where, inputs)
    for name in sorted(names - arrays.keys()):
        raise DataError(f"{where} holds no array named '{name}'; the model's inputs are {', '.join(sorted(names))}")
    for name in sorted(arrays.keys() - names - {TARGETS}):
        raise DataError(f"{where}: '{name}' is not an input; the model's inputs are {', '.join(sorted(names))}")
    shared = {name: arrays.pop(name) for name in _shared(inputs, arrays)}
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: the arrays differ in their number of samples: {counts}")
    whole = {i.name: _check(where, i, {**arrays, **shared}[i.name]) for i in inputs}
    batch = _batch(where, inputs, whole, shared)
    most = samples if samples is None or batch is None else max(samples, batch)
    arrays = _chosen(arrays, next(iter(counts.values()), 0), most, half, fold)
    count = len(next(iter(arrays.values()), ()))
    if not count:
        raise DataError(f"{where} holds no samples" + ("" if half is None else " for a half"))
    if batch is not None and batch > count:
        raise DataError(f"{where}: {count} samples do not fill a fixed batch of {batch}")
    step, usable = (_together(arrays), count) if batch is None else (batch, count - count % batch)
    boundaries = [slice(at, min(at + step, count)) for at in range(0, usable, step)]
    feeds: list[Feeds] = [
        shared | {i.name: _sample(arrays[i.name], at.start) if whole[i.name] else arrays[i.name][at]
                  for i in inputs if i.name in arrays}
        for at in boundaries
    ]  # fmt: skip
    targets = None if TARGETS in names else arrays.get(TARGETS)
    judged = None if targets is None else [targets[at.start] if ragged(targets) else targets[at] for at in boundaries]
    return Samples(
        feeds, usable, shared | {name: array[:usable] for name, array in arrays.items()}, judged, any(whole.values())
    )


def ragged(array: Array) -> bool:
    """Whether it holds arrays, one for each run."""
    return array.dtype == object and bool(array.size) and isinstance(array.flat[0], np.ndarray)


def _sample(array: Array, number: int) -> Array:
    return array[number] if ragged(array) else array[number, ...]


def _named(given: Given, where: str, inputs: list[Input]) -> dict[str, Array]:
    """Arrays by name; batches and samples are joined."""
    if isinstance(given, list):
        names = set().union(*(part.arrays for part in given))
        for part in given:
            for name in sorted(names - part.arrays.keys()):
                raise DataError(f"{where}: the samples do not all have the same names: {part.where} lacks '{name}'")
        one = _one_for_all(given, inputs)
        ranks = {i.name: len(i.shape) for i in inputs}
        return one | {name: _joined(where, name, given, ranks.get(name)) for name in sorted(names - one.keys())}
    if UNNAMED not in given:
        return dict(given)
    if len(inputs) != 1:
        raise DataError(f"{where} is one array; the model has the inputs {', '.join(i.name for i in inputs)}")
    return {inputs[0].name: given[UNNAMED]}


def _one_for_all(parts: list[Part], inputs: list[Input]) -> dict[str, Array]:
    """What is the same in each part and no sample of it, such as a scalar or a state."""
    if not parts or any(item.name not in parts[0].arrays for item in inputs):
        return {}
    first = parts[0].arrays
    shared = set(first).intersection(*(_shared(inputs, part.arrays) for part in parts))
    found = {n: first[n] for n in shared if all(np.array_equal(first[n], part.arrays[n]) for part in parts)}
    return found if len(found) < len(inputs) else {}


def _joined(where: str, name: str, parts: list[Part], rank: int | None) -> Array:
    """Batches along their first axis; samples, which have one axis less than the input, along a new one."""
    arrays = [part.arrays[name] for part in parts]
    batches = all(array.ndim and rank in (None, array.ndim) for array in arrays)
    first, start = parts[0], 1 if batches else 0
    for part, array in zip(parts, arrays, strict=True):
        if array.ndim != arrays[0].ndim or array.shape[start:] != arrays[0].shape[start:]:
            raise DataError(
                f"{where}: the samples of '{name}' cannot be joined: "
                f"{first.where} has shape {arrays[0].shape}, {part.where} {array.shape}"
            )
    return np.concatenate(arrays) if batches else np.stack(arrays)


def _shared(inputs: list[Input], arrays: dict[str, Array]) -> list[str]:
    """The inputs with one value for all samples: scalars, and those whose first axis is fixed and no longer."""

    def single(item: Input) -> bool:
        array = arrays[item.name]
        return not ragged(array) and array.ndim == len(item.shape) and (not item.shape or fixed(item) == len(array))

    found = [item for item in inputs if single(item)]
    if len(found) < len(inputs):
        return [item.name for item in found]
    # What is there is one batch of everything. Its samples are those of the targets or of the first input.
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    count = lengths.get(TARGETS, next((lengths[i.name] for i in inputs if i.name in lengths), 0))
    return [item.name for item in found if lengths.get(item.name) != count]


def _chosen(
    arrays: dict[str, Array], count: int, samples: int | None, half: int | None, fold: tuple[int, int] | None
) -> dict[str, Array]:
    """The samples that are asked for, in the order of the file."""
    if not count:
        return {}
    start, stride = fold or (0, 1)
    if half is None:
        return {name: array[:samples][start::stride] for name, array in arrays.items()}
    drawn = np.random.default_rng(0).permutation(count)
    kept = np.sort(drawn[: -(-count // 2)] if half == 0 else drawn[-(-count // 2) :])[:samples][start::stride]
    return {name: array[kept] for name, array in arrays.items()}


def read(path: Path) -> Given:
    """What a file, a folder or a name of `held_data` holds, for `cut`."""
    in_memory = held_data.found(path)
    if in_memory is not None:
        return in_memory
    files = sorted(path.glob("*.npz")) if path.is_dir() else []
    return [Part(file.name, _read(file)) for file in files] or _read(path)


def _read(path: Path) -> dict[str, Array]:
    """Arrays by name; a folder holds NAME.npy files.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as handle:
                file = np.load(handle, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    return {UNNAMED: file}
                return {name: file[name] for name in file.files}
        return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    except OSError as error:
        raise DataError(f"cannot read the data in {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        other = no_arrays(path)
        if other:
            raise DataError(
                f"{path} is {other}, and data are .npz or .npy files: numpy.savez('data.npz', INPUT=array) writes one"
            ) from error
        raise DataError(f"cannot read the data in {path}: {error}") from error


def _check(where: str, item: Input, array: Array) -> bool:
    """Whether each sample is a whole input; DataError where the array cannot be one at all."""
    if ragged(array):
        return all([_check(where, item, each[np.newaxis]) for each in array])
    text = item.type == "tensor(string)"
    if not (array.dtype.kind in "UO" if text else item.dtype and np.can_cast(array.dtype, item.dtype, "no")):
        only = "" if item.type.startswith("tensor") else ", and data can hold tensors only: leave it out"
        raise DataError(f"{where}: '{item.name}' is {array.dtype}, the model wants {item.type}{only}")
    whole = array.ndim == len(item.shape) + 1
    given = array.shape[1:]
    wanted = item.shape if whole else item.shape[1:]
    fits = array.ndim in (len(item.shape), len(item.shape) + 1) and all(
        not isinstance(w, int) or w == g for w, g in zip(wanted, given, strict=True)
    )
    if not fits:
        raise DataError(f"{where}: '{item.name}' has shape {array.shape}, the model wants {item.shape}")
    return whole


def runnable(session: ort.InferenceSession, given: Given, where: str) -> tuple[Given, list[Input]]:
    """The data and the inputs that it is cut for, read so that the session runs it.

    The first axes of the inputs are fixed where it takes so many samples at a time though they are free: exporters
    write a batch of 1 into a Reshape or a state, and a state that is given may be for more. Where first axes count
    different things, nodes and edges, or parts are of unequal sizes, what is given is a run, or each part of it one.

    Args:
        session: of the model.
        given: see `cut`.
        where: see `cut`.
    """
    inputs = inputs_of(session)
    settled = all(not item.shape or fixed(item) for item in inputs)
    held = _fitting(given, where, inputs, 2)
    if held is not None and (settled or held.whole or held.count < 2 or _runs(session, held)):
        return given, inputs
    for size in [] if held is None else [1, *_unnamed(inputs, held.feeds[0])]:
        batches = [replace(i, shape=(size, *i.shape[1:])) if i.shape and not fixed(i) else i for i in inputs]
        if _runs(session, _fitting(given, where, batches, size)):
            return given, batches
    runs = _whole_runs(given, where, inputs)
    return (runs, inputs) if runs and _runs(session, _fitting(runs, where, inputs, 1)) else (given, inputs)


def _fitting(given: Given, where: str, inputs: list[Input], samples: int) -> Samples | None:
    try:
        return cut(given, where, inputs, samples)
    except DataError:  # which is said where all samples are cut
        return None


def _unnamed(inputs: list[Input], feed: Feeds) -> list[int]:
    """The sizes of axes of states that nothing is known of: they may count samples."""
    states = [item for item in inputs if fixed(item)]
    return sorted({n for i in states for d, n in zip(i.shape, feed[i.name].shape, strict=True) if d is None and n > 1})


def _whole_runs(given: Given, where: str, inputs: list[Input]) -> Given | None:
    """Each part as a whole run, in arrays of arrays; None where one is empty, or sizes contradict the model's."""
    parts = [part.arrays for part in given] if isinstance(given, list) else [given]
    if not parts or any(arrays.keys() != parts[0].keys() for arrays in parts):
        return None
    for arrays in parts:
        sizes: dict[int | str | None, int] = {}
        for item in inputs:
            array = arrays.get(item.name)
            if array is None or array.ndim != len(item.shape) or not array.size:
                return None
            named = [(d, n) for d, n in zip(item.shape, array.shape, strict=True) if d is not None]
            if any(n != (d if isinstance(d, int) else sizes.setdefault(d, n)) for d, n in named):
                return None
    found = {name: np.empty(len(parts), object) for name in parts[0]}
    for name, array in found.items():
        for number, arrays in enumerate(parts):
            array[number] = arrays[name]  # all at once numpy would join those of one shape
    return found


def _runs(session: ort.InferenceSession, samples: Samples | None) -> bool:
    """Whether the session takes the first feed."""
    if samples is None:
        return False
    try:
        run(session, samples.feeds[0])
    except RuntimeFailure:
        return False
    return True


def fixed(item: Input) -> int | None:
    """The size of an input's first axis; None where it is free."""
    first = item.shape[0] if item.shape else None
    return first if isinstance(first, int) else None


def _together(arrays: dict[str, Array]) -> int:
    """How many samples make a batch: of large ones fewer, as what a model computes of them is many times larger."""
    numbers = sum(array.size // len(array) for array in arrays.values())
    return max(1, min(BATCH, NUMBERS // max(numbers, 1)))


def _batch(where: str, inputs: list[Input], whole: dict[str, bool], shared: dict[str, Array]) -> int | None:
    """How many samples every run takes; None where it may be any number."""
    if any(whole.values()):
        return 1
    sampled = [item for item in inputs if item.name not in shared]
    sizes = {size for i in sampled if (size := fixed(i))}
    symbols = {i.shape[0] for i in sampled}
    axes = [axis for i in inputs if i.name in shared for axis in zip(i.shape, shared[i.name].shape, strict=True)]
    sizes |= {size for dimension, size in axes if isinstance(dimension, str) and dimension in symbols}
    if not sizes and any(dimension is None for dimension, _ in axes):
        return 1  # a state may hold samples along another axis
    if len(sizes) > 1:
        raise DataError(f"{where}: no fixed batch has {' and '.join(map(str, sorted(sizes)))} samples at once")
    return sizes.pop() if sizes else None


def batch_of(session: ort.InferenceSession, feeds: Sequence[Feeds]) -> Feeds | None:
    """The first three feeds as one; None where the first input's first axis has no name, or they do not go together."""
    inputs, parts = inputs_of(session), feeds[:3]
    symbol = inputs[0].shape[0] if inputs and inputs[0].shape else None
    if len(parts) < 3 or not isinstance(symbol, str):
        return None
    together: dict[str, Array] = {}
    try:
        for item in inputs:
            arrays = [feed[item.name] for feed in parts]
            axis = next((axis for axis, size in enumerate(item.shape) if size == symbol), None)
            together[item.name] = arrays[0] if axis is None else np.concatenate(arrays, axis)
    except ValueError:  # their other axes differ
        return None
    return together

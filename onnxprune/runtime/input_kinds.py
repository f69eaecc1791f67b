"""What an input of a model may be, and values for each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.core.override import override

Shape = tuple[int, ...]
SAMPLE_RATE = 16_000  # Hz: of most speech models
_OCTAVES = 5  # of a picture: its finest grid has 2 ** 5 cells a side
_NOISE = 0.005  # of a recording, against a peak of 0.5


class Kind(ABC):
    """A kind of input; `phrase` is what reports call it."""

    @property
    @abstractmethod
    def phrase(self) -> str:
        """In the plural, without a full stop."""

    @abstractmethod
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        """One input of that shape and type."""

    @property
    def varies(self) -> bool:
        """Whether samples differ."""
        return True

    def size(self, axis: int) -> int | None:
        """How many entries a free axis must have, where the kind says so."""
        return None

    def preferred(self, axis: int) -> int | None:
        """How many entries a free axis had better have."""
        return None

    def within(self, shapes: Mapping[str, Shape]) -> Kind:
        """The kind for inputs of these shapes, by name."""
        return self


@dataclass(frozen=True, eq=False)
class Numbers(Kind):
    """Nothing is known: standard normal numbers, or whole numbers out of `allowed`."""

    allowed: Array | None = None

    @property
    @override
    def phrase(self) -> str:
        return "random numbers"

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        if np.issubdtype(dtype, np.floating):
            return rng.standard_normal(shape).astype(dtype)
        return rng.choice(np.arange(2) if self.allowed is None else self.allowed, shape).astype(dtype)


@dataclass(frozen=True)
class Constant(Kind):
    """The same number everywhere: masks, states, sampling rates."""

    called: str
    value: float

    @property
    @override
    def phrase(self) -> str:
        return self.called

    @property
    @override
    def varies(self) -> bool:
        return False

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        return np.full(shape, self.value).astype(dtype)


@dataclass(frozen=True)
class Length(Kind):
    """How many entries another input has along an axis."""

    of: str
    axis: int

    @property
    @override
    def phrase(self) -> str:
        return "lengths"

    @property
    @override
    def varies(self) -> bool:
        return False

    @override
    def within(self, shapes: Mapping[str, Shape]) -> Kind:
        return Constant(self.phrase, shapes[self.of][self.axis])

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        raise TypeError("a length has values within shapes only")


@dataclass(frozen=True)
class Tokens(Kind):
    """Indices of rows of a table, held as integers or as floats that the model casts."""

    rows: int

    @property
    @override
    def phrase(self) -> str:
        return f"token ids below {self.rows:,}"

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        return rng.choice(np.arange(self.rows), shape).astype(dtype)


@dataclass(frozen=True)
class Image(Kind):
    """Smooth pictures with detail at every scale, whose channels are alike; `axis` holds the channels.

    Black is `low` and white is `high`; `scale` says so in words.
    """

    channels: int
    axis: int
    low: float
    high: float
    scale: str

    @property
    @override
    def phrase(self) -> str:
        return f"images of {self.channels} channel{'s' if self.channels > 1 else ''}, {self.scale}"

    @override
    def size(self, axis: int) -> int | None:
        return self.channels if axis == self.axis else None

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        moved = (*shape[: self.axis], *shape[self.axis + 1 :])
        height, width = moved[-2:]
        pictures = []
        for _ in range(int(np.prod(moved[:-2]))):
            light = smooth(rng, height, width)
            tinted = np.stack([light + 0.3 * smooth(rng, height, width) for _ in range(self.channels)])
            pictures.append(_stretched_to_unit(tinted))
        unit = np.stack(pictures).reshape(*moved[:-2], self.channels, height, width)
        found = self.low + (self.high - self.low) * np.moveaxis(unit, -3, self.axis)
        return np.ascontiguousarray(np.rint(found) if np.issubdtype(dtype, np.integer) else found).astype(dtype)


@dataclass(frozen=True)
class Features(Kind):
    """Frames of features, such as log mel spectra: smooth along time and bins, mean 0 and deviation 1."""

    time: int
    bins: int

    @property
    @override
    def phrase(self) -> str:
        return "feature frames"

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        others = [n for axis, n in enumerate(shape) if axis not in (self.time, self.bins)]
        steps, bins = shape[self.time], shape[self.bins]
        frames = np.stack([smooth(rng, steps, bins) for _ in range(int(np.prod(others)))])
        frames += 0.1 * rng.standard_normal(frames.shape)
        frames = (frames - frames.mean()) / (frames.std() or 1)
        return np.ascontiguousarray(
            np.moveaxis(frames.reshape(*others, steps, bins), (-2, -1), (self.time, self.bins))
        ).astype(dtype)


@dataclass(frozen=True)
class Waveform(Kind):
    """Recordings: tones with overtones that swell and fade, and a little noise; the peak is 0.5.

    `wanted` is how many entries the axis `time` had better have where it is free.
    """

    time: int
    wanted: int

    @property
    @override
    def phrase(self) -> str:
        return "waveforms"

    @override
    def preferred(self, axis: int) -> int | None:
        return self.wanted if axis == self.time else None

    @override
    def values(self, rng: np.random.Generator, shape: Shape, dtype: np.dtype) -> Array:
        others, steps = (*shape[: self.time], *shape[self.time + 1 :]), shape[self.time]
        sounds = np.stack([_sound(rng, steps) for _ in range(int(np.prod(others)))]).reshape(*others, steps)
        return np.ascontiguousarray(np.moveaxis(sounds, -1, self.time)).astype(dtype)


def smooth(rng: np.random.Generator, height: int, width: int) -> Array:
    """Value noise: random grids, each twice as fine and half as strong as the one before, interpolated linearly."""
    found = np.zeros((height, width))
    for octave in range(_OCTAVES):
        grid = rng.standard_normal((2 ** (octave + 1) + 1,) * 2)
        found += _interpolated(_interpolated(grid, height, 0), width, 1) / 2**octave
    return found


def _interpolated(grid: Array, size: int, axis: int) -> Array:
    places = np.linspace(0, grid.shape[axis] - 1, size)
    below = np.minimum(places.astype(int), grid.shape[axis] - 2)
    share = (places - below).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.take(grid, below, axis) * (1 - share) + np.take(grid, below + 1, axis) * share


def _stretched_to_unit(picture: Array) -> Array:
    low, high = picture.min(), picture.max()
    return (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)


def _sound(rng: np.random.Generator, steps: int) -> Array:
    seconds = np.arange(steps) / SAMPLE_RATE
    found = np.zeros(steps)
    for _ in range(3):
        pitch, phase = rng.uniform(90, 400), rng.uniform(0, 2 * np.pi)
        swell = np.abs(smooth(rng, steps, 1)[:, 0])
        for overtone in range(1, 7):
            found += swell * np.sin(overtone * (2 * np.pi * pitch * seconds + phase)) / overtone
    peak = np.abs(found).max(initial=0)
    return (0.5 * found / peak if peak else found) + _NOISE * rng.standard_normal(steps)

"""The curve of a weight whose inputs are known: what its outputs lose, and points at which it is pruned by them first.

What most inputs of a layer do others can do for them: choosing by the outputs what stays of a weight, and refitting it,
keeps several times fewer entries than a threshold on each by itself (`least_squares.py`). Some outputs are pruned and
rounded by one half of the samples, as all of them would be, and the other half tells what they lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocation.rate_distortion import SCALES_COST, RatePoint, Snap, around, hull, snapped, stored
from onnxprune.core.dtypes import Array
from onnxprune.encodings.candidates import Candidates
from onnxprune.encodings.values.rounding import gridded, outputs_first
from onnxprune.encodings.values.scales import live_channels, unit_scale
from onnxprune.pruning.least_squares import Problem
from onnxprune.quantization.channel_scales import Channels
from onnxprune.quantization.codebook import Codebook, fit_codebooks
from onnxprune.quantization.error_feedback import Feedback, Rounded, output_loss
from onnxprune.quantization.histogram import Histogram

KEPT = (0.6, 0.4, 0.26, 0.17, 0.11, 0.07, 0.045, 0.028, 0.017)  # shares of the entries
LEVELS = (3, 4, 6, 9, 13, 16, 21, 40, 73)
_TRIED = 3  # numbers of levels of each share: those whose error comes nearest to that of pruning
_LEAST_INPUTS, _LEAST_SIZE = 8, 256  # of a weight that is pruned so
_SOME, _HEAVY = 28, 8  # outputs that tell, and those of the largest values for their scale
_ENTRIES = 1 << 15  # that are enough: fewer outputs of many inputs each, whose matrix each step multiplies by
_STEPS = 16  # of the alternating directions: `STEPS` would lose a little less


def output_curve(
    line: Sequence[RatePoint], candidates: Candidates, halves: Array, feedback: Feedback, prune: bool, planes: bool
) -> list[RatePoint]:
    """The points of a weight by what its outputs lose.

    Args:
        line: its points by what the weight loses.
        candidates: its forms.
        halves: [2, groups, inputs, inputs], the moments of its inputs on each half of the samples.
        feedback: of both.
        prune: whether entries may become 0.
        planes: whether codes may be stored in planes.
    """
    large = halves.shape[-1] >= _LEAST_INPUTS and candidates.weight.size >= _LEAST_SIZE
    sample = _Sample.of(candidates, halves, feedback) if prune and large else None
    if sample is None:
        return hull([replace(point, loss=point.loss * feedback.remaining) for point in line])
    forms = [replace(point, loss=point.loss * feedback.remaining) for point in line if point.codebook is None]
    return hull([*forms, *sample.judged(line, planes)])


@dataclass(frozen=True)
class _Version:
    """Some outputs as a point of the curve would have them.

    Attributes:
        point: without what it costs.
        rounded: what is rounded, over the scale of each output.
        scale: float32 [outputs, 1], over that of the weight's channels.
        entries: how many codes are not 0; None: that is counted.
    """

    point: RatePoint
    rounded: Rounded
    scale: Array
    entries: float | None


@dataclass(frozen=True)
class _Sample:
    """Some outputs of a weight.

    Attributes:
        candidates: of the weight.
        rows: float32 [groups, outputs, inputs], each over its scale.
        scale: of the weight's channels.
        units: float32 [outputs, 1], those of the outputs.
        problem: of the outputs, on one half of the samples.
        passing: how errors are passed on, by that half.
        unseen: the moments of the other one.
        without_scale: whether points without a scale for each channel are worth trying.
    """

    candidates: Candidates
    rows: Array
    scale: Array
    units: Array
    problem: Problem
    passing: Feedback
    unseen: Array
    without_scale: bool

    @classmethod
    def of(cls, candidates: Candidates, halves: Array, feedback: Feedback) -> _Sample | None:
        """Draw outputs; None where the weight has channels that are too small for a scale."""
        weight, readers = candidates.weight, candidates.readers()
        assert candidates.wide is not None
        wide, scale = live_channels(weight, candidates.wide, readers.transposed if readers else None)
        if scale is None:
            return None
        rows = outputs_first(weight, wide).reshape(len(feedback.order), -1, halves.shape[-1])
        units = outputs_first(weight, scale.astype(np.float32)).reshape(*rows.shape[:2], 1)
        groups, some = _drawn(rows, units)
        rows, units = rows[groups][:, some], units[groups][:, some]
        rows = (rows / units).astype(np.float32)
        seen = np.ascontiguousarray(halves[0][groups])
        without = readers is None and scale.nbytes > SCALES_COST * weight.nbytes(candidates.model)
        return cls(
            candidates, rows, scale, units.reshape(-1, 1), Problem.of(rows, seen, feedback.damping),
            Feedback.damped(seen, feedback.damping, feedback.remaining), halves[1][groups].astype(np.float64), without,
        )  # fmt: skip

    def judged(self, line: Sequence[RatePoint], planes: bool) -> list[RatePoint]:
        """What the given points cost, and those at which the weight is pruned first."""
        versions = [*self._plain(line), *self._pruned()]
        size, flat, found = self.candidates.weight.size, self.rows.reshape(-1, self.rows.shape[-1]), []
        for version, codes in zip(versions, self.passing.round_each([v.rounded for v in versions]), strict=True):
            point, levels = version.point, version.rounded.levels
            each = output_loss(self.unseen, flat, levels.astype(np.float32)[codes] * version.scale)
            shares = np.bincount(codes.reshape(-1), minlength=len(levels)) * (size / codes.size)
            if version.entries is not None and shares[1:].any():
                shares[1:] *= version.entries / shares[1:].sum()
                shares[0] = size - version.entries
            assert point.scale is not None
            nbytes = float((stored([shares], size, planes) + around(point.scale, np.array([len(levels)])))[0])
            lost = max(float(each.mean()), float(each.max()) / 2)
            found.append(replace(point, nbytes=nbytes, loss=lost))
        return found

    def _plain(self, line: Sequence[RatePoint]) -> Iterator[_Version]:
        """The versions of given points."""
        flat = self.rows.reshape(-1, self.rows.shape[-1])
        for point in line:
            if point.codebook is not None and point.scale is not None:
                yield self._version(point, flat, self._ratio(point.scale), True, None)

    def _pruned(self) -> Iterator[_Version]:
        """The versions at which a share of the entries is kept."""
        size, flat = self.candidates.weight.size, self.rows.reshape(-1, self.rows.shape[-1])
        snap: Snap | None = _on_grid if self.candidates.readers() else None
        forms = [(self.scale, snap)]
        if self.without_scale:
            assert self.candidates.wide is not None
            forms.append((unit_scale(self.candidates.wide), None))
        for share, rows in zip(KEPT, self.problem.kept(KEPT, _STEPS), strict=True):
            kept = rows.reshape(flat.shape)
            lost = float(output_loss(self.unseen, flat, kept).mean())
            for scale, on_grid in forms:
                ratio = self._ratio(scale)
                for codebook in _codebooks(Histogram.of(kept / ratio), lost / self.passing.remaining, on_grid):
                    point = RatePoint(0.0, 0.0, codebook, scale, kept=share)
                    yield self._version(point, kept, ratio, False, share * size)

    def _ratio(self, scale: Array) -> Array:
        """A scale over that of the channels; float32 [outputs, 1]."""
        if scale.size > 1:
            return np.ones_like(self.units)
        return (scale.astype(np.float32).reshape(1, 1) / self.units).astype(np.float32)

    def _version(self, point: RatePoint, rows: Array, ratio: Array, prune: bool, entries: float | None) -> _Version:
        codebook = point.codebook
        assert codebook is not None
        assert point.scale is not None
        if point.scale.size > 1:
            ratio = ratio * _grown(rows, codebook, prune)
        return _Version(point, Rounded(rows / ratio, codebook.levels, prune, codebook.boundaries), ratio, entries)


def _grown(rows: Array, codebook: Codebook, prune: bool) -> Array:
    """What the scales of the outputs that the codebook would clip grow by; float32 [outputs, 1]."""
    heavy = np.argsort(-np.abs(rows).max(-1), kind="stable")[:_HEAVY]
    grown = np.ones((len(rows), 1), np.float32)
    grown[heavy, 0] = Channels.of(heavy, rows[heavy], np.ones(len(heavy))).fitted(codebook, prune)[0]
    return grown


def _codebooks(histogram: Histogram, lost: float, snap: Snap | None) -> list[Codebook]:
    """Codebooks for what is kept, whose error is near that of what is not: squared, of entries of energy 1."""
    wanted = [(levels, 0.0) for levels in LEVELS]
    found = snapped(histogram, fit_codebooks(histogram, wanted, False, once=True), [0.0] * len(wanted), False, snap)
    errors = np.array([max(codebook.error, 1e-12) for codebook in found]) / max(histogram.energy, 1e-12)
    near = np.argsort(np.abs(np.log(errors / max(lost, 1e-12))), kind="stable")[:_TRIED]
    return [found[at] for at in sorted(near)]


def _on_grid(levels: Array) -> Array:
    return gridded(levels, False)[0]


def _drawn(rows: Array, units: Array) -> tuple[Array, Array]:
    """Which groups, and which outputs of each: evenly spread, and of a single group the heaviest."""
    groups, outputs, inputs = rows.shape
    share = min(1.0, _ENTRIES / (_SOME * inputs))
    at = np.unique(np.linspace(0, groups - 1, min(groups, _SOME)).astype(np.intp))
    some = np.unique(np.linspace(0, outputs - 1, min(outputs, max(1, round(share * _SOME) // len(at)))).astype(np.intp))
    if groups == 1:
        peaks = np.abs(rows[0]).max(-1) / units[0, :, 0]
        some = np.union1d(some, np.argsort(-peaks, kind="stable")[: max(1, round(share * _HEAVY))])
    return at, some

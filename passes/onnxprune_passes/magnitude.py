"""magnitude: zero the weights of least magnitude (Han et al. 2015), with exact counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune import masks, quantise
from onnxprune.dtypes import Array
from onnxprune.encodings.graft import loose_weights, planted_in
from onnxprune.errors import OptionError, WeightError
from onnxprune.model import Model
from onnxprune.pipeline import Change, Pass, Progress, silent
from onnxprune.weights import Weight, check_patterns, matches

SCOPES = ("layer", "global", "channel")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pass):
    """Prune the smallest |w|.

    Give one of `sparsity`, `quality` and `threshold`, or an N:M pattern.

    Options:
        sparsity: share to prune, 0 <= sparsity < 1: exactly round(sparsity * n) entries of the scope,
            zeros that are there already included, ties by lowest index.
        quality: prune |w| < quality * std of the layer's weights (the paper's rule).
        threshold: prune |w| < threshold.
        loss: prune what holds less than this share of the squares, summed over the weights, each with an
            equal part.
        scope: what the share is taken over: layer, global, or channel (each output channel).
        pattern: "2:4" keeps 2 of every 4 neighbours along the input axis; "1x4" prunes whole blocks
            of 1 output by 4 inputs.
        set: "PATTERN=SPARSITY", a glob on the weight's name; the last match counts. A name in full
            reaches a weight that is left alone by default.
        include: globs of weights to prune with the others although they are left alone by default: biases count
            as parameters, and under a global share few of them are worth their place.
        skip: globs of weights to leave alone.
    """

    name = "magnitude"
    sparsity: float | None = None
    quality: float | None = None
    threshold: float | None = None
    loss: float | None = None
    scope: str = "layer"
    pattern: str = ""
    set: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options."""
        rules = {"sparsity": self.sparsity, "quality": self.quality, "threshold": self.threshold, "loss": self.loss}
        given = [key for key, value in rules.items() if value is not None]
        if len(given) > 1:
            raise OptionError(f"{given[0]} and {given[1]} contradict each other: give one")
        for key in given:
            value = rules[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
                raise OptionError(f"{key} must be a number from 0 up, not {value!r}")
        if self.sparsity is not None:
            _share(self.sparsity, "sparsity")
        if self.scope not in SCOPES:
            raise OptionError(f"scope '{self.scope}' is not one of {', '.join(SCOPES)}")
        keep = self._n_of_m
        if not given and keep is None and not self.set:
            raise OptionError("nothing says how much to prune: give sparsity, quality, threshold, loss or a pattern")
        if keep is not None and (given or self.set or self.scope != "layer"):
            raise OptionError(
                f"pattern {self.pattern} fixes the sparsity: leave out sparsity, quality, threshold, set and scope"
            )
        if self._block is not None and (self.scope != "layer" or self.quality or self.threshold or self.loss):
            raise OptionError("a block pattern goes with sparsity, layer by layer")
        if self.scope != "layer" and (self.sparsity is None or (self.set and self.scope == "global")):
            raise OptionError(
                f"scope {self.scope} goes with sparsity" + (" and without set" if self.scope == "global" else "")
            )
        for entry in self.set:
            pattern, equals, share = entry.rpartition("=")
            if not equals or not pattern:
                raise OptionError(f"set '{entry}' must be PATTERN=SPARSITY")
            try:
                _share(float(share), f"set '{entry}': sparsity")
            except ValueError as error:
                raise OptionError(f"set '{entry}': '{share}' is not a number") from error

    @property
    def _n_of_m(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if match is None:
            return None
        n, m = int(match[1]), int(match[2])
        if not 0 < n <= m <= 64:
            raise OptionError(f"pattern {self.pattern}: N:M keeps N of every M, 0 < N <= M <= 64")
        return n, m

    @property
    def _block(self) -> tuple[int, int] | None:
        if not self.pattern or ":" in self.pattern:
            return None
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", self.pattern)
        if match is None:
            raise OptionError(f"pattern '{self.pattern}' must look like 2:4 or 1x4")
        return int(match[1]), int(match[2])

    def run(self, model: Model, progress: Progress = silent) -> Change:
        """See `Pass.run`."""
        change = Change()
        shares = self._choose(loose_weights(model), change)
        for group in planted_in(model):
            change.skipped[group.name] = "is encoded: decode the model first"
        cut = None
        if self.scope == "global":
            total = sum(w.size for w, _ in shares)
            assert self.sparsity is not None
            cut = masks.smallest(lambda: self._all_scores(model, shares), round(self.sparsity * total), total)
        ties = cut.ties if cut else 0
        for done, (weight, share) in enumerate(shares):
            progress(self.name, done, len(shares))
            array = weight.array(model)
            if cut is not None:
                threshold: float | None = cut.threshold
                pruned, ties = _cut_array(weight, array, masks.Cut(cut.threshold, ties))
            else:
                pruned, threshold = self._prune(weight, array, share, len(shares))
            record = {"requested": share, "zeros": weight.zeros(pruned), "total": weight.size, "threshold": threshold}
            change.weights[weight.name] = record
            if pruned is not array and _differ(pruned, array):
                weight.set_array(model, pruned)
                change.modified = True
            del array, pruned
            model.payloads.forget_pages()
        return change

    def _choose(self, weights: list[Weight], change: Change) -> list[tuple[Weight, float | None]]:
        """The weights to prune with their share, in the order of the model; the others into `skipped`."""
        check_patterns(weights, (*(entry.rpartition("=")[0] for entry in self.set), *self.include, *self.skip))
        chosen = []
        for weight in weights:
            share, named = self.sparsity, False
            for entry in self.set:
                pattern, _, value = entry.rpartition("=")
                if matches(weight.name, pattern):
                    share, named = float(value), not _WILD.search(pattern) or pattern == weight.name
            reason = self._reason(weight, share, named)
            if reason is None:
                chosen.append((weight, share))
            else:
                change.skipped[weight.name] = reason
        return chosen

    def _reason(self, weight: Weight, share: float | None, named: bool) -> str | None:
        """Why the weight is left alone, or None."""
        if weight.fixed:
            return weight.fixed
        if any(matches(weight.name, pattern) for pattern in self.skip):
            return "skipped on request"
        if weight.reason and not named and not any(matches(weight.name, pattern) for pattern in self.include):
            return weight.reason
        ruled = (share, self.quality, self.threshold, self.loss, self._n_of_m)
        if all(rule is None for rule in ruled):
            return "no --set matches it"
        if (self.pattern or self.scope == "channel") and (weight.out_axis is None or not weight.in_axes):
            return "its output and input axes are not known, or its readers disagree on them"
        return None

    @staticmethod
    def _all_scores(model: Model, shares: list[tuple[Weight, float | None]]) -> Iterator[Array]:
        wide = any(w.dtype == "float64" for w, _ in shares)
        for weight, _ in shares:
            for chunk in weight.magnitude_chunks(weight.array(model)):
                yield chunk.astype(np.float64) if wide else chunk
            model.payloads.forget_pages()

    def _prune(self, weight: Weight, array: Array, share: float | None, weights: int) -> tuple[Array, float | None]:
        """The pruned values of one weight among so many, and the threshold where all its entries share one."""
        if self._n_of_m is not None or self._block is not None or self.scope == "channel":
            return _zeroed(weight, array, self._structured(weight, array, share)), None
        if share is not None:
            cut = masks.smallest(lambda: weight.magnitude_chunks(array), round(share * weight.size), weight.size)
        elif self.loss is not None:
            count = _within(weight, array, self.loss / weights)
            cut = masks.smallest(lambda: weight.magnitude_chunks(array), count, weight.size)
        elif self.quality is not None:
            cut = masks.Cut(self.quality * _std(weight, array), 0)
        else:
            cut = masks.Cut(self.threshold or 0.0, 0)
        return _cut_array(weight, array, cut)[0], cut.threshold

    def _structured(self, weight: Weight, array: Array, share: float | None) -> Array:
        """The mask of a pattern or of the channel scope, in the weight's own shape."""
        assert weight.out_axis is not None
        inner = weight.in_axes[0]
        batch = [a for a in range(array.ndim) if a not in (weight.out_axis, inner)]
        order = (*batch, weight.out_axis, inner)
        if self.scope == "channel":
            order = (weight.out_axis, *(a for a in range(array.ndim) if a != weight.out_axis))
        scores = np.ascontiguousarray(weight.magnitudes(array).transpose(order))
        keep, block = self._n_of_m, self._block
        if keep is not None:
            mask = masks.keep_n_of_m(scores, *keep)
        elif block is not None:
            blocks = masks.block_scores(scores, block)
            cut = masks.smallest(lambda: [np.ascontiguousarray(blocks)], round((share or 0) * blocks.size), blocks.size)
            mask = masks.spread_blocks(cut.mask(blocks), block, scores.shape)
        else:
            rows = scores.reshape(scores.shape[0], -1)
            mask = masks.smallest_per_row(rows, round((share or 0) * rows.shape[1])).reshape(scores.shape)
        return mask.transpose(np.argsort(order))


def _share(value: float, what: str) -> None:
    if not 0 <= value < 1:
        raise OptionError(f"{what} must be at least 0 and below 1, not {value}")


def _differ(a: Array, b: Array) -> bool:
    """Whether two arrays differ in any bit; the first piece that does ends the search."""
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (a, b))
    pieces = range(0, left.size, 8 * masks.CHUNK)
    return any(not np.array_equal(left[at : at + 8 * masks.CHUNK], right[at : at + 8 * masks.CHUNK]) for at in pieces)


def _std(weight: Weight, array: Array) -> float:
    """Standard deviation of the dequantised values, summed in float64 piece by piece."""
    if weight.zero is not None:
        signed = weight.magnitudes(array) * np.where(array.astype(np.int16) < weight.zero_value, -1, 1)
        return float(signed.std(dtype=np.float64))
    count, total, squares = array.size, 0.0, 0.0
    flat = array.reshape(-1)
    for start in range(0, count, masks.CHUNK):
        chunk = flat[start : start + masks.CHUNK].astype(np.float64)
        total += float(chunk.sum())
        squares += float(chunk @ chunk)
    deviation = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))
    if not np.isfinite(deviation):
        raise WeightError(f"weight '{weight.name}' holds NaN or Inf: it cannot be pruned by magnitude")
    return deviation


def _within(weight: Weight, array: Array, loss: float) -> int:
    """How many of the smallest entries hold less than this share of the sum of squares."""
    scores = weight.magnitudes(array)
    top = float(scores.max(initial=0.0))
    histogram = quantise.Histogram.of(scores, np.full((1,) * scores.ndim, top) if top else None)
    inside = int(np.searchsorted(histogram.sums[2], loss * histogram.energy, side="right")) - 1
    return histogram.zeros + int(histogram.sums[3, max(inside, 0)])


def _zeroed(weight: Weight, array: Array, mask: Array) -> Array:
    return np.where(mask, weight.zero_value, array)


def _cut_array(weight: Weight, array: Array, cut: masks.Cut) -> tuple[Array, int]:
    """The weight with the cut applied, piece by piece, and the ties that are left for the next weight."""
    if cut.threshold == 0 and not cut.ties:
        for _ in weight.magnitude_chunks(array):  # NaN and Inf are refused whatever the cut
            pass
        return array, 0
    out = np.empty(array.shape, array.dtype)
    source, target = array.reshape(-1), out.reshape(-1)
    zeros = weight.zero_value
    spread = np.broadcast_to(zeros, array.shape).reshape(-1) if zeros.ndim else None
    start, ties = 0, cut.ties
    for scores in weight.magnitude_chunks(array):
        piece = slice(start, start + scores.size)
        mask = masks.Cut(cut.threshold, ties).mask(scores)
        if ties:
            ties -= min(ties, int(np.count_nonzero(scores == cut.threshold)))
        target[piece] = np.where(mask, zeros if spread is None else spread[piece], source[piece])
        start += scores.size
    return out, ties

"""magnitude: zero the weights of least magnitude (Han et al. 2015) or saliency, with exact counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.allocation import rate_distortion
from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Kind, Reason, Weight, check_patterns, matches
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, WeightRecord
from onnxprune.pipeline.per_weight import PerWeight, fraction
from onnxprune.pipeline.progress import Progress, silent, tracked
from onnxprune.pruning import selection
from onnxprune.pruning.scores import magnitude_chunks
from onnxprune.pruning.structure import Structure
from onnxprune.pruning.thresholds import (
    compared,
    count_within,
    last_tie,
    standard_deviation,
    zeroed,
    zeroed_below,
)

if TYPE_CHECKING:
    from onnxprune.calibration.layers import Layer

SCOPES = ("layer", "global", "channel")
REFITTING = ("activation", "obs")  # saliencies that refit what stays
SALIENCIES = ("magnitude", *REFITTING)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class _Planned:
    """What the rule would do to a weight by magnitude.

    Attributes:
        weight: the weight.
        pruned: its values then.
        differs: whether they are others than before.
        share: that goes.
        zeros: entries that are 0 then.
    """

    weight: Weight
    pruned: ChunkedArray
    differs: bool
    share: float | None
    zeros: int


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
            equal part. What a model that was encoded before has lost already counts.
        scope: what the share is taken over: layer, global, or channel (each output channel). With a saliency that
            refits, global shares it out such that the outputs of the layers lose least in all.
        pattern: "2:4" keeps 2 of every 4 neighbours along the input axis; "1x4" prunes whole blocks
            of 1 output by 4 inputs.
        set: "PATTERN=SPARSITY", a glob on the weight's name; the last match counts. A name in full
            reaches a weight that is left alone by default.
        include: globs of weights to prune with the others although they are left alone by default: biases count
            as parameters, and under a global share few of them are worth their place.
        skip: globs of weights to leave alone.
        saliency: which entries go, of as many as the rule says for each weight: magnitude; activation, magnitude times
            the root mean square of the input (Sun et al. 2024); or obs, those whose loss the others make good best
            (Hassibi and Stork 1993). The last two refit the entries that stay by least squares, layer after layer, and
            shift biases. The default is obs with data, and magnitude without or where a layer's inputs are not known.
        data: an .npz file or a folder (see `samples.load`) that the inputs of the layers are recorded on.
        samples: at most so many samples of the data.
        half: only samples of the first half that `samples.cut` makes: the second is held out.
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
    saliency: str = ""
    data: str = ""
    samples: int = 128
    half: bool = False

    @override
    def check(self) -> None:
        rules = {"sparsity": self.sparsity, "quality": self.quality, "threshold": self.threshold, "loss": self.loss}
        given = {key: value for key, value in rules.items() if value is not None}
        if len(given) > 1:
            raise OptionError(f"{' and '.join(list(given)[:2])} contradict each other: give one")
        for key, value in given.items():
            if not np.isfinite(value) or value < 0:
                raise OptionError(f"{key} must be a number from 0 up, not {value!r}")
        if self.sparsity is not None and not self.sparsity < 1:
            raise OptionError(f"sparsity must be at least 0 and below 1, not {self.sparsity}")
        if self.scope not in SCOPES:
            raise OptionError(f"scope '{self.scope}' is not one of {', '.join(SCOPES)}")
        keep = self._n_of_m
        if not given and keep is None and not self.set:
            raise OptionError("nothing says how much to prune: give sparsity, quality, threshold, set or a pattern")
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
        if self.saliency not in ("", *SALIENCIES):
            raise OptionError(f"saliency '{self.saliency}' is not one of {', '.join(SALIENCIES)}")
        if self.saliency in REFITTING and not self.data:
            raise OptionError(f"saliency {self.saliency} is measured on samples: give data")
        _ = self.shares  # its entries are checked

    @property
    def shares(self) -> PerWeight[float]:
        """The share of each weight that `set` names."""
        return PerWeight.parse("set", self.set, "SPARSITY", fraction)

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
    def _calibration(self) -> CalibrationSet:
        return CalibrationSet(Path(self.data), self.samples, 0 if self.half else None)

    @property
    def _structure(self) -> Structure | None:
        """What makes the mask where no threshold does."""
        keep, block = self._n_of_m, self._block
        return Structure(keep, block) if keep or block or self.scope == "channel" else None

    @property
    def _block(self) -> tuple[int, int] | None:
        if not self.pattern or ":" in self.pattern:
            return None
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", self.pattern)
        if match is None:
            raise OptionError(f"pattern '{self.pattern}' must look like 2:4 or 1x4")
        return int(match[1]), int(match[2])

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change, weights = Change(), find(model)
        shares = self._choose(weights, change)
        for group in encoded_weights(model):
            change.skipped[group.name] = Reason(Kind.ENCODED, "is encoded: decode the model first", "encoded")
        saliency = self.saliency or (REFITTING[-1] if self.data else SALIENCIES[0])
        layers: dict[str, Layer] = {}
        cut, counts = None, {}
        if saliency in REFITTING:
            from onnxprune.calibration.layers import layers_of  # which runs models: not while passes are listed
            from onnxprune.reconstruction.shares import global_counts

            layers = layers_of([weight for weight, _ in shares], weights)
        if self.scope == "global" and saliency in REFITTING:
            assert self.sparsity is not None
            chosen = [weight for weight, _ in shares]
            counts = global_counts(model, chosen, layers, self.sparsity, self._calibration, progress, self.name)
        elif self.scope == "global":
            total = sum(w.size for w, _ in shares)
            assert self.sparsity is not None
            cut = selection.smallest(self._all_scores(model, shares), round(self.sparsity * total), total)
        waiting, structure = dict[str, _Planned](), self._structure
        for _, (weight, share) in tracked(progress, self.name, shares, lambda entry: entry[0].nbytes(model)):
            chunked = weight.chunked(model)
            if structure is not None:
                pruned, threshold = zeroed(weight, chunked, structure.mask(weight, chunked, share or 0)), None
            else:
                own = cut if cut is not None else self._cut(model, weight, share, len(shares), counts.get(weight.name))
                last, taken = last_tie(model, weight, own)
                pruned, threshold = zeroed_below(weight, chunked, own.threshold, last), own.threshold
                if cut is not None:
                    cut = replace(cut, ties=cut.ties - taken, equal=cut.equal - taken)
            if share is not None and self.scope != "global" and threshold and weight.zero is None:  # then it is known
                zeros, differs = round(share * weight.size), True
            else:
                zeros, differs = compared(weight, chunked, pruned)
            change.weights[weight.name] = WeightRecord(valued=True, requested=share, zeros=zeros, threshold=threshold)
            if weight.name in layers:
                waiting[weight.name] = _Planned(weight, pruned, differs, share, zeros)
            elif differs:
                weight.set_array(model, pruned)
                change.modified = True
        if saliency in REFITTING and shares:
            self._refit(model, layers, waiting, saliency, change, progress)
        if self.loss is not None and change.modified:
            rate_distortion.spend(model, self.loss)
        return change

    def _refit(
        self, model: Model, layers: Mapping[str, Layer], planned: Mapping[str, _Planned], saliency: str,
        change: Change, progress: Progress,
    ) -> None:  # fmt: skip
        """Prune the layers by saliency and refit what stays; by magnitude where their inputs turn out unknown."""
        selects = {name: partial(self._mask, entry) for name, entry in planned.items()}
        from onnxprune.reconstruction.pruning import prune_layers

        done = prune_layers(model, layers, selects, saliency, self._calibration, progress, self.name)
        for name, entry in planned.items():
            record = change.weights[name]
            if name in done.weights:
                zeros = entry.weight.zeros(entry.weight.chunked(model))
                change.weights[name] = replace(record, zeros=zeros, threshold=None)
                change.modified = True
            elif entry.differs and name not in done.kept:
                entry.weight.set_array(model, entry.pruned)
                change.modified = True
        left = [name for name in change.weights if name not in done.weights | done.kept]
        because = ", because what they read could not be recorded"
        change.notes += done.notes(left, "pruned by magnitude alone", because)

    def _mask(self, planned: _Planned, scores: Array) -> Array:
        """Which entries go, of as many as the rule says: those of the smallest scores."""
        weight, chunked = planned.weight, ChunkedArray.of(scores)
        if self._structure is not None:
            return self._structure.mask(weight, chunked, planned.share or 0)
        return selection.smallest([lambda: [scores]], planned.zeros, weight.size).mask(scores)

    def _choose(self, weights: list[Weight], change: Change) -> list[tuple[Weight, float | None]]:
        """The weights to prune with their share, in the order of the model; the others into `skipped`."""
        shares = self.shares
        check_patterns(weights, (*shares.patterns, *self.include, *self.skip))
        chosen = []
        for weight in weights:
            share, named = self.sparsity, False
            own = shares.match(weight.name)
            if own is not None:
                pattern, share = own
                named = not _WILD.search(pattern) or pattern == weight.name
            reason = self._reason(weight, share, named)
            if reason is None:
                chosen.append((weight, share))
            else:
                change.skipped[weight.name] = reason
        return chosen

    def _reason(self, weight: Weight, share: float | None, named: bool) -> Reason | None:
        """Why the weight is left alone, or None."""
        if not weight.prunable:
            return weight.reason
        if any(matches(weight.name, pattern) for pattern in self.skip):
            return Reason(Kind.SKIPPED, "skipped on request")
        if weight.reason and not named and not any(matches(weight.name, pattern) for pattern in self.include):
            return weight.reason
        ruled = (share, self.quality, self.threshold, self.loss, self._n_of_m)
        if all(rule is None for rule in ruled):
            return Reason(Kind.NO_RULE, "no --set matches it")
        if (self.pattern or self.scope == "channel") and (weight.out_axis is None or not weight.in_axes):
            return Reason(Kind.AXES, "its output and input axes are not known, or its readers disagree on them")
        return None

    @staticmethod
    def _all_scores(model: Model, shares: list[tuple[Weight, float | None]]) -> list[selection.Chunks]:
        wide = any(w.dtype == "float64" for w, _ in shares)

        def widened(part: selection.Chunks) -> Iterator[Array]:
            for chunk in part():
                yield chunk.astype(np.float64) if wide else chunk

        return [partial(widened, part) for weight, _ in shares for part in magnitude_chunks(weight, model)]

    def _cut(self, model: Model, weight: Weight, share: float | None, weights: int, count: int | None) -> selection.Cut:
        """What is pruned of one weight among so many; `count` entries where that is known."""
        if count is not None:
            return selection.smallest(magnitude_chunks(weight, model), count, weight.size)
        if share is not None:
            return selection.smallest(magnitude_chunks(weight, model), round(share * weight.size), weight.size)
        if self.loss is not None:
            count = count_within(model, weight, max(0.0, self.loss - model.spent) / weights)
            return selection.smallest(magnitude_chunks(weight, model), count, weight.size)
        if self.quality is not None:
            return selection.Cut(self.quality * standard_deviation(weight, weight.chunked(model)), 0)
        return selection.Cut(self.threshold or 0.0, 0)

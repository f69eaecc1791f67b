"""channels: remove whole channels of least magnitude, with everything that is coupled to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.channels.cleanup import remove_unused
from onnxprune.channels.coupling import Coupling, Family, RemovableAxis, couplings, families_of
from onnxprune.channels.surgery import Surgery
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.errors import OptionError, WeightError
from onnxprune.model.model import Model
from onnxprune.model.weight import matches
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, some_of
from onnxprune.pipeline.per_weight import PerWeight, fraction
from onnxprune.pipeline.progress import Progress, silent

if TYPE_CHECKING:
    from onnxprune.reconstruction.channels import ReadChannels

SCORES = ("l1", "l2", "batchnorm", "obs")
SCOPES = ("layer", "global")
_LARGEST = np.finfo(np.float64).max / 2**20  # norms are added up


@dataclass(frozen=True)
class Removable:
    """A family of channel groups, and what its removal costs the layers that read it.

    Attributes:
        name: a weight that makes groups of this family and of no other.
        groups: how many there are.
        step: how many of them go at once for a multiple to stay.
        costs: of each removal, the cheapest first, of as many as may go; shares of the energy of the readers' outputs.
    """

    name: str
    groups: int
    step: int
    costs: Array


@dataclass(frozen=True, kw_only=True)
class Channels(Pass):
    """Remove the groups of coupled channels whose weights have the least norm, and shrink every shape.

    Groups that share a layer are a family: residual branches that are added up, the heads of an attention. What is
    coupled to graph inputs and outputs, or to an operator without a rule, stays.

    Options:
        sparsity: share of the groups to remove, 0 <= sparsity < 1: round(sparsity * n) of each family, or of all.
        set: "PATTERN=SPARSITY", a glob on the name of a weight that makes a family; the last match counts.
        score: l1 or l2, the norm over all weights that make the group, or batchnorm, its |scale|; obs, which needs
            data: what the removal costs the layers that read the group, which are refitted to what stays. Empty: obs
            with data, else l1.
        scope: what the share is taken over: layer (each family) or global, by scores over their family's mean.
        floor: share of each family that stays at the least when the scope is global.
        multiple: the numbers of outputs that layers keep are rounded up to a multiple of this.
        convolutions: the same of convolutions, where it is more: ONNX Runtime computes these in blocks of channels.
        only: names of weights: the families that they make, and no others.
        data: a file or folder of inputs.
        samples: at most so many of them.
        half: only samples of the first half that `samples.cut` makes: the second is held out.
    """

    name = "channels"
    sparsity: float
    set: tuple[str, ...] = ()
    score: str = ""
    scope: str = "layer"
    floor: float = 0.1
    multiple: int = 1
    convolutions: int = 1
    only: tuple[str, ...] = ()
    data: str = ""
    samples: int = 128
    half: bool = False

    @override
    def check(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise OptionError(f"channels: sparsity must be at least 0 and below 1, not {self.sparsity}")
        if not 0 <= self.floor <= 1:
            raise OptionError(f"channels: floor must be from 0 to 1, not {self.floor}")
        if self.score not in ("", *SCORES):
            raise OptionError(f"channels: score '{self.score}' is not one of {', '.join(SCORES)}")
        if self.score == "obs" and not self.data:
            raise OptionError("channels: score obs is measured on samples: give data")
        if self.scope not in SCOPES:
            raise OptionError(f"channels: scope '{self.scope}' is not one of {', '.join(SCOPES)}")
        if min(self.multiple, self.convolutions) < 1:
            least = min(self.multiple, self.convolutions)
            raise OptionError(f"channels: multiple and convolutions must be at least 1, not {least}")
        if self.shares.entries and self.scope == "global":
            raise OptionError("channels: scope global shares the channels out, and so does set: give one")

    @property
    def shares(self) -> PerWeight[float]:
        """The share of each family that `set` names."""
        return PerWeight.parse("channels: set", self.set, "SPARSITY", fraction)

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        asked = bool(self.sparsity or self.set)
        from onnxprune.reconstruction.channels import ReadChannels  # which runs models: not while passes are listed

        self._check_patterns(model)
        for coupling in couplings(model):
            read = None
            repairs = self.data and self.score in ("", "obs") and asked
            if repairs and not coupling.scope.path:
                read = ReadChannels(coupling, self._calibration, progress, self.name)
            gone = self._chosen(coupling, read, change)
            if gone.any():
                if read is not None:
                    done = read.repair(gone)
                    left = [name for name in read.readers(gone) if name not in done.weights]
                    change.notes += done.notes(left, "read fewer channels and could not be refitted")
                elif repairs:  # what the layers of a body read is not recorded
                    change.notes.append(_by_norm([f for f in families_of(coupling) if gone[f.groups].any()]))
                surgery = Surgery(coupling)
                surgery.perform(gone)
                change.removed += surgery.removed
            change.notes += coupling.notes()
        change.modified = bool(change.removed)
        if asked and not change.modified:
            change.notes.append("no channel can go: all touch an input, an output or an operator without a rule")
        if change.modified:
            remove_unused(model)
        return change

    def removable(self, model: Model, progress: Progress = silent) -> list[Removable]:
        """The families of the main graph whose readers' inputs are known, with what this pass's samples say of them.

        Raises:
            DataError: the samples do not fit the model.
            RuntimeFailure: the model does not run.
        """
        from onnxprune.reconstruction.channels import ReadChannels

        coupling = next(couplings(model))
        families = families_of(coupling)
        most = [self._most(len(family.groups)) for family in families]
        orders = ReadChannels(coupling, self._calibration, progress, self.name).orders(families, most)
        makers = Counter(weight for family in families for weight in family.weights)
        found = []
        for family, order in zip(families, orders, strict=True):
            name = next((weight for weight in family.weights if makers[weight] == 1), None)
            if order is not None and name is not None:
                step = family.step(self.multiple, self.convolutions)
                found.append(Removable(name, len(family.groups), step, order.costs))
        return found

    def _check_patterns(self, model: Model) -> None:
        """Refuse entries of `set` that name no family, before anything is measured."""
        if self.set:
            makers = {w for coupling in couplings(model) for family in families_of(coupling) for w in family.weights}
            for pattern in self.shares.patterns:
                if not any(matches(weight, pattern) for weight in makers):
                    raise WeightError(f"'{pattern}' matches no weight whose channels can go")

    def _share(self, family: Family) -> float:
        """What is to go of a family."""
        entries = reversed(self.shares.entries)
        named = (share for pattern, share in entries if any(matches(weight, pattern) for weight in family.weights))
        return next(named, self.sparsity)

    @property
    def _calibration(self) -> CalibrationSet:
        return CalibrationSet(Path(self.data), self.samples, 0 if self.half else None)

    def _chosen(self, coupling: Coupling, read: ReadChannels | None, change: Change) -> Array:
        """Group -> whether it goes."""
        norm = self.score if self.score in SCORES[:-1] else SCORES[0]
        scores = _scores(coupling, norm)
        families = [f for f in families_of(coupling) if not self.only or set(self.only) & set(f.weights)]
        gone = np.zeros(len(coupling.protected), bool)
        ranked = [family.groups[np.argsort(scores[family.groups], kind="stable")] for family in families]
        counts = [round(self._share(family) * len(family.groups)) for family in families]
        if read is not None:
            counts, ranked = self._by_costs(read, families, counts, ranked, change)
        elif self.scope == "global":
            relative = [scores[family] / (scores[family].mean() or 1.0) for family in ranked]
            counts = self._global_counts(relative, ranked, round(self.sparsity * sum(map(len, ranked))))
        counts = [self._rounded(family, count) for family, count in zip(families, counts, strict=True)]
        for family, count in zip(ranked, counts, strict=True):
            gone[family[:count]] = True
        while emptied := coupling.emptied(gone):  # a part of a family, behind a Split for instance
            for removable in emptied:
                groups = coupling.groups(removable).reshape(-1)
                gone[groups[np.argmax(scores[groups])]] = False
        return gone

    def _by_costs(
        self, read: ReadChannels, families: list[Family], counts: list[int], ranked: list[Array], change: Change
    ) -> tuple[list[int], list[Array]]:
        """How many groups of each family go, and in which order, where samples say it; else as given."""
        most = [self._most(len(family)) for family in ranked]
        found = dict(enumerate(read.orders(families, counts if self.scope == "layer" else most)))
        orders = {number: order for number, order in found.items() if order is not None}
        counts, ranked = list(counts), list(ranked)
        if self.scope == "global":
            costs = [np.maximum.accumulate(order.costs) for order in orders.values()]
            total = sum(counts[number] for number in orders)
            chosen = self._global_counts(costs, [ranked[number] for number in orders], total)
            for number, count in zip(orders, chosen, strict=True):
                counts[number] = count
        left = [family for number, family in enumerate(families) if counts[number] and number not in orders]
        change.notes += [_by_norm(left)] if left else []
        for number, order in orders.items():
            ranked[number] = order.groups
        return counts, ranked

    def _rounded(self, family: Family, count: int) -> int:
        """How many groups of a family go, of so many that are to go, for a multiple of outputs to stay."""
        groups, step = len(family.groups), family.step(self.multiple, self.convolutions)
        kept = max(groups - count, 1)
        return groups - min(-(-kept // step) * step, groups)

    def _most(self, groups: int) -> int:
        """How many of so many groups may go."""
        return groups - max(int(np.ceil(self.floor * groups)), 1)

    def _global_counts(self, scores: Sequence[Array], families: Sequence[Array], count: int) -> list[int]:
        """How many of each family are among the least of all, each family's floor kept.

        Args:
            scores: of the groups of each family, ascending.
            families: their groups.
            count: how many go in all.
        """
        most = [self._most(len(family)) for family in families]
        sizes = np.repeat(np.arange(len(families)), most)
        offered = np.concatenate([s[:m] for s, m in zip(scores, most, strict=True)] or [np.empty(0)])
        chosen = sizes[np.argsort(offered, kind="stable")[:count]]
        return np.bincount(chosen, minlength=len(families)).tolist()


def _by_norm(families: Sequence[Family]) -> str:
    """What a user should know of channels that were chosen without samples."""
    weights = [weight for family in families for weight in family.weights]
    return f"channels chosen by norm, because what reads them could not be recorded: those of {some_of(weights)}"


def _scores(coupling: Coupling, score: str) -> Array:
    """Group -> the norm of the weights that produce it, in float64.

    Raises:
        WeightError: a weight holds NaN or Inf.
    """
    total = np.zeros(len(coupling.protected))
    for layer in coupling.layers:
        if score != "batchnorm":
            weight = layer.view(coupling.array(layer.weight))
            with np.errstate(over="ignore"):
                single = weight if weight.dtype == np.float64 else weight.astype(np.float32, copy=False)
                wide = np.abs(single) if score == "l1" else np.square(weight, dtype=np.float64)
                norms = wide.sum(axis=(2, 3), dtype=np.float64).reshape(-1)
            if not np.isfinite(norms).all() and np.isfinite(weight).all():  # finite values whose norm leaves float64
                norms = np.minimum(norms, _LARGEST)
            _add(total, coupling, layer.target, norms, layer.weight)
            coupling.model.payloads.forget_pages()
    if score == "batchnorm":
        for node in coupling.scope.body.node:
            if node.op_type == "BatchNormalization" and coupling.is_constant(node.input[1]):
                for removable in coupling.removable_axes.get(node.input[1], ()):
                    _add(
                        total,
                        coupling,
                        removable,
                        np.abs(coupling.array(node.input[1]).astype(np.float64)),
                        node.input[1],
                    )
    return np.sqrt(total) if score == "l2" else total


def _add(total: Array, coupling: Coupling, removable: RemovableAxis, amounts: Array, name: str) -> None:
    if not np.isfinite(amounts).all():
        raise WeightError(f"weight '{name}' holds NaN or Inf: its channels cannot be compared")
    np.add.at(total, coupling.groups(removable).reshape(-1), amounts)

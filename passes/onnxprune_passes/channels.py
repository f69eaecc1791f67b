"""channels: remove whole channels of least magnitude, with everything that is coupled to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.channels.cleanup import remove_unused
from onnxprune.channels.coupling import Coupling, RemovableAxis, couplings, families_of
from onnxprune.channels.surgery import Surgery
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.errors import OptionError, WeightError
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent

SCORES = ("l1", "l2", "batchnorm")
SCOPES = ("layer", "global")
_LARGEST = np.finfo(np.float64).max / 2**20  # norms are added up


@dataclass(frozen=True, kw_only=True)
class Channels(Pass):
    """Remove the groups of coupled channels whose weights have the least norm, and shrink every shape.

    Groups that share a layer are a family: residual branches that are added up, the heads of an attention. What is
    coupled to graph inputs and outputs, or to an operator without a rule, stays.

    Options:
        sparsity: share of the groups to remove, 0 <= sparsity < 1: round(sparsity * n) of each family, or of all.
        score: l1 or l2, the norm over all weights that make the group, or batchnorm, its |scale|.
        scope: what the share is taken over: layer (each family) or global, by scores over their family's mean.
        floor: share of each family that stays at the least when the scope is global.
        multiple: kept counts are rounded up to a multiple of this.
        only: names of weights: the families that they make, and no others.
    """

    name = "channels"
    sparsity: float
    score: str = "l1"
    scope: str = "layer"
    floor: float = 0.1
    multiple: int = 1
    only: tuple[str, ...] = ()

    @override
    def check(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise OptionError(f"channels: sparsity must be at least 0 and below 1, not {self.sparsity}")
        if not 0 <= self.floor <= 1:
            raise OptionError(f"channels: floor must be from 0 to 1, not {self.floor}")
        if self.score not in SCORES:
            raise OptionError(f"channels: score '{self.score}' is not one of {', '.join(SCORES)}")
        if self.scope not in SCOPES:
            raise OptionError(f"channels: scope '{self.scope}' is not one of {', '.join(SCOPES)}")
        if self.multiple < 1:
            raise OptionError(f"channels: multiple must be at least 1, not {self.multiple}")

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        for coupling in couplings(model):
            gone = self._chosen(coupling)
            if gone.any():
                surgery = Surgery(coupling)
                surgery.perform(gone)
                change.removed += surgery.removed
            change.notes += coupling.notes()
        change.modified = bool(change.removed)
        if self.sparsity and not change.modified:
            change.notes.append("no channel can go: all touch an input, an output or an operator without a rule")
        if change.modified:
            remove_unused(model)
        return change

    def _chosen(self, coupling: Coupling) -> Array:
        """Group -> whether it goes."""
        scores = _scores(coupling, self.score)
        families = [
            family.groups for family in families_of(coupling) if not self.only or set(self.only) & set(family.weights)
        ]
        gone = np.zeros(len(coupling.protected), bool)
        ranked = [family[np.argsort(scores[family], kind="stable")] for family in families]
        if self.scope == "layer":
            counts = [round(self.sparsity * len(family)) for family in ranked]
        else:
            counts = self._global_counts(ranked, scores)
        for family, count in zip(ranked, counts, strict=True):
            kept = max(len(family) - count, 1)
            kept = min(-(-kept // self.multiple) * self.multiple, len(family))
            gone[family[: len(family) - kept]] = True
        while emptied := coupling.emptied(gone):  # a part of a family, behind a Split for instance
            for removable in emptied:
                groups = coupling.groups(removable).reshape(-1)
                gone[groups[np.argmax(scores[groups])]] = False
        return gone

    def _global_counts(self, ranked: list[Array], scores: Array) -> list[int]:
        """How many of each family are among the least of all, each family's floor kept."""
        relative = [scores[family] / (scores[family].mean() or 1.0) for family in ranked]
        most = [len(family) - max(int(np.ceil(self.floor * len(family))), 1) for family in ranked]
        sizes = np.repeat(np.arange(len(ranked)), most)
        offered = np.concatenate([r[:m] for r, m in zip(relative, most, strict=True)] or [np.empty(0)])
        count = round(self.sparsity * sum(map(len, ranked)))
        chosen = sizes[np.argsort(offered, kind="stable")[:count]]
        return np.bincount(chosen, minlength=len(ranked)).tolist()


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

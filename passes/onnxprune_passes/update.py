"""update: retrained values from a checkpoint, or from a re-exported model, into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Kind, Reason
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent
from onnxprune_passes.decode import Decode

if TYPE_CHECKING:
    from onnxprune.masks import file

_UNKNOWN = Reason(Kind.UNMATCHED, "nothing says which parameter it is")


@dataclass(frozen=True, kw_only=True)
class Update(Pass):
    """Retrained weights, biases and norms into the graph, folded batch norms computed anew, masks laid over them.

    Options:
        source: the retrained checkpoint, or a re-exported model (.onnx).
        masks: a mask file: what it prunes is zero afterwards, and its links say which parameter is which weight.
        names_from: the checkpoint that the model was exported from, to find by value which parameter is which weight.
        lay_masks: whether the masks are laid over the result; else they only say which parameter is which weight.
    """

    name = "update"
    source: str = ""
    masks: str = ""
    names_from: str = ""
    lay_masks: bool = True

    @override
    def check(self) -> None:
        if not self.source:
            raise OptionError("source must name a retrained checkpoint or model")
        if not (self.masks or self.names_from or self._is_model):
            raise OptionError(
                "nothing says which parameter is which weight: give a mask file that was written with --names-from, "
                "or --names-from with the checkpoint that the model was exported from"
            )

    @property
    def _is_model(self) -> bool:
        return Path(self.source).suffix == ".onnx"

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        from onnxprune.masks import file  # not while the passes are listed: few commands read masks
        from onnxprune.masks.apply import lay, settle

        change, where = Change(), str(model.path or "the model")
        masks = file.read(Path(self.masks)) if self.masks else None
        laid = lay(masks, model, where) if masks is not None and self.lay_masks else {}
        weights = {w.name: w for w in find(model)}
        done, total = 0, sum(weight.nbytes(model) for weight in weights.values())
        for name, values in self._retrained(model, masks, change, where):
            progress(self.name, done, total)
            done += values.nbytes
            kept = laid.get(name)
            alive = 0 if kept is None else int(np.count_nonzero(values[~kept]))
            if alive:
                change.notes.append(f"'{name}': {alive:,} masked entries were not zero in {self.source}; now they are")
            settle(model, weights[name], values, kept, change)
        for name, weight in weights.items():
            if name not in change.weights:
                reason = change.skipped.setdefault(name, _UNKNOWN)
                if weight.kind != "unused" and not weight.is_operand:  # a constant of the graph
                    change.notes.append(f"'{name}' stays as it was: {reason}")
                if name in laid:
                    settle(model, weight, weight.array(model), laid[name], change)
        return change

    def _retrained(
        self, model: Model, masks: file.MaskFile | None, change: Change, where: str
    ) -> Iterator[tuple[str, Array]]:
        """(weight, its new values); what stays as it is goes into `skipped`."""
        from onnxprune.masks import checkpoints, update
        from onnxprune.masks.alignment import weights_of
        from onnxprune.masks.matching import match

        source = Path(self.source)
        if self._is_model:
            other = Model.load(source)
            Decode().run(other)
            return update.from_model(model, other, self.source)
        if self.names_from:
            matches = match.match(model, checkpoints.read(Path(self.names_from)))
            change.skipped.update(matches.unmatched)
            parameters, listed = matches.parameters, weights_of(model)
        else:
            assert masks is not None
            parameters, listed = dict(masks.parameters), masks.weights
        arrays = checkpoints.read(source)
        single = [n for n, array in arrays.items() if array.size == 1 and checkpoints.is_real(array)]
        if single:  # a number alone says too little to be matched by value
            change.notes.append(f"parameters of one element stay as they were: {', '.join(single)}")
        return update.from_checkpoint(model, parameters, listed, arrays, self.source, where)

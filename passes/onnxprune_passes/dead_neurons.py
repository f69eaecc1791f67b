"""dead_neurons: what has no inputs or no outputs left goes, with all its other connections (Han et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.channels.cleanup import drop_unread, remove_unused
from onnxprune.channels.coupling import couplings
from onnxprune.channels.liveness import Liveness
from onnxprune.channels.surgery import Surgery
from onnxprune.channels.unread_inputs import layers_with_unread_inputs
from onnxprune.channels.zero_branches import bypass_zero_branches
from onnxprune.core.override import override
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class DeadNeurons(Pass):
    """Remove channels that nothing reads, and those that are the same for every input.

    The latter go into the bias of what reads them. A branch that adds nothing to a sum goes with the sum, and so do
    tensors that nothing reads. Where a matrix leaves features unread that have to stay, a Gather goes in front of a
    smaller matrix if that saves time and bytes. Outputs stay what they were, up to rounding.

    Options:
        encoded: whether encodings follow that store zeros in next to no bytes.
        multiple: dead channels stay as far as needed for kept counts that are multiples of this.
        convolutions: the same of convolutions, where it is more: ONNX Runtime computes these in blocks of channels.
    """

    name = "dead_neurons"
    encoded: bool = False
    multiple: int = 1
    convolutions: int = 1

    @override
    def check(self) -> None:
        if min(self.multiple, self.convolutions) < 1:
            least = min(self.multiple, self.convolutions)
            raise OptionError(f"dead_neurons: multiple and convolutions must be at least 1, not {least}")

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        unread = drop_unread(model)
        if unread:
            change.notes.append(f"{len(unread)} tensors that nothing reads are gone")
        # Without weights nothing is dead, and the shapes of a forest may take gigabytes to infer.
        found = self._analysed(model) if find(model) else []
        bypassed = sum(map(bypass_zero_branches, found))
        if bypassed:
            change.notes.append(f"{bypassed} sums to which a branch added nothing are gone, with those branches")
            remove_unused(model)
            found = self._analysed(model)
        for liveness in found:
            if liveness.dead.any():
                surgery = Surgery(liveness.coupling)
                surgery.perform(liveness.dead, liveness.bias_update)
                change.removed += surgery.removed
            for node, count in liveness.blocked_by_padding().items():
                change.notes.append(
                    f"{count} constant channels stay in front of '{node}': its padding meets zeros in their place"
                )
            change.notes += liveness.coupling.notes()
        if change.removed:
            found = self._analysed(model)
        for liveness in found:
            surgery = Surgery(liveness.coupling)
            for layer in layers_with_unread_inputs(liveness, encoded=self.encoded):
                surgery.gather(layer)
            change.removed += surgery.removed
        if change.removed or bypassed:
            remove_unused(model)
        change.modified = bool(change.removed or bypassed or unread)
        return change

    def _analysed(self, model: Model) -> list[Liveness]:
        return [Liveness(coupling, self.multiple, self.convolutions) for coupling in couplings(model)]

"""dead_neurons: what has no inputs or no outputs left goes, with all its other connections (Han et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.bypass import bypass
from onnxprune.coupling import couplings
from onnxprune.liveness import Liveness
from onnxprune.model import Model
from onnxprune.pipeline import Change, Pass, Progress, silent
from onnxprune.surgery import Surgery
from onnxprune.sweep import sweep
from onnxprune.unread import unread


@dataclass(frozen=True, kw_only=True)
class DeadNeurons(Pass):
    """Remove channels that nothing reads, and those that are the same for every input.

    The latter go into the bias of what reads them. A branch that adds nothing to a sum goes with the sum. Where a
    matrix leaves features unread that have to stay, a Gather goes in front of a smaller matrix if that saves time and
    bytes. Outputs stay what they were, up to rounding.

    Options:
        encoded: whether encodings follow that store zeros in next to no bytes.
    """

    name = "dead_neurons"
    encoded: bool = False

    def run(self, model: Model, progress: Progress = silent) -> Change:
        """See `Pass.run`."""
        change = Change()
        found = [Liveness(coupling) for coupling in couplings(model)]
        silent = sum(map(bypass, found))
        if silent:
            change.notes.append(f"{silent} sums to which a branch added nothing are gone, with those branches")
            sweep(model)
            found = [Liveness(coupling) for coupling in couplings(model)]
        for liveness in found:
            if liveness.dead.any():
                surgery = Surgery(liveness.coupling)
                surgery.perform(liveness.dead, liveness.folded)
                change.removed += surgery.removed
            for node, count in liveness.hampered().items():
                change.notes.append(
                    f"{count} constant channels stay in front of '{node}': its padding meets zeros in their place"
                )
            for label, count in liveness.coupling.unknown.items():
                change.notes.append(f"no rule for {label} ({count} nodes): the channels around it stay")
        if change.removed:
            found = [Liveness(coupling) for coupling in couplings(model)]
        for liveness in found:
            surgery = Surgery(liveness.coupling)
            for layer in unread(liveness, encoded=self.encoded):
                surgery.gather(layer)
            change.removed += surgery.removed
        change.modified = bool(change.removed or silent)
        if change.modified:
            sweep(model)
        return change

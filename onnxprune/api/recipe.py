"""The passes of `compress`: which of them there are, and which depend on the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

from onnxprune.api.options.objects import Calibration, Computing, Rule, Storing
from onnxprune.api.options.stripping import Stripping
from onnxprune.api.stages import Saving
from onnxprune.pipeline.base import Pass
from onnxprune_passes import Decode, Encode, Fold

_STORING = frozenset(
    {"decode", "freeze", "fold", "strip_metadata", "dead_neurons", "encode"}
)  # passes that are there for the file's size


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Decode, fold, remove channels, prune, remove dead neurons, let layers compute with integers, encode.

    Attributes:
        rule: what is pruned; where it does not say, the loss decides.
        storing: how weights are stored.
        shapes: which shapes change.
        computing: what layers compute with.
        calibration: samples that the inputs of the layers are measured on.
        repairing: samples on which layers are refitted to the channels that stay, and the ranges of activations
            measured.
        importance: what a unit of a weight's loss counts; see the encode pass.
        forms_prune: whether weights of a given form are pruned to the loss where no rule says how far. Nobody asked for
            it who gave neither a loss nor anything that judges the result.
    """

    rule: Rule
    storing: Storing
    shapes: Stripping
    computing: Computing
    calibration: Calibration
    repairing: Calibration
    importance: tuple[str, ...] = ()
    forms_prune: bool = True

    @property
    def settled(self) -> bool:
        """Whether the loss decides nothing: a rule says what is pruned, and a form how values are stored."""
        return self.rule.given and self.storing.values != "auto"

    @property
    def saving(self) -> Saving:
        """When the model stays as it was."""
        ruled = self.rule.given or bool(self.rule.pattern)
        return Saving(_STORING if ruled else _STORING | {"magnitude"}, self.storing.encoding != "auto")

    def steps(self, loss: float) -> list[Pass]:
        """The passes for a loss.

        Raises:
            OptionError: the options of a pass make no sense.
        """
        rule, storing = self.rule, self.storing
        calibration = self.calibration if rule.given else Calibration()
        # Made even where it does not run: it checks the rule.
        magnitude = rule.magnitude(None if rule.given else loss, calibration)
        pruned = rule.given or bool(rule.pattern) or (storing.values != "auto" and self.forms_prune)
        return [
            *self.shapes.first(),
            Fold(),
            *self.shapes.before(self.repairing),
            *([magnitude] if pruned else ()),
            *self.shapes.after(encoded=True),
            *self.computing.steps(self.repairing),
            self.encode(loss),
        ]

    def encode(self, loss: float) -> Encode:
        """The last of the passes."""
        return self.storing.encode(
            loss, keep_zeros=self.rule.given, skip=self.rule.skip, importance=self.importance,
            calibration=self.calibration,
        )  # fmt: skip

    def following(self, loss: float) -> list[Pass]:
        """The passes that remove what died when weights were stored, where the loss decided what became 0.

        Nothing where a rule did, which dead neurons follow already, or where forms are given.
        """
        dead = self.shapes.after(encoded=True)
        given = self.storing.values != "auto" or self.storing.by_weight
        if self.rule.given or given or not dead or self.computing.steps(self.repairing):
            return []
        exact = replace(self.encode(loss), values="exact", half_biases=True, set=(), importance=(), data="", half=False)
        return [Decode(), *dead, exact]

    def fixed(self) -> list[Pass]:
        """The passes in front of the first that depends on the loss."""
        pairs = zip(self.steps(0.0), self.steps(1.0), strict=True)
        return [step for step, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

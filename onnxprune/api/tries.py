"""Results of one recipe at several losses: what does not depend on the loss is done once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from onnxprune.allocation.measurement import Measurements
from onnxprune.api.options.objects import Checks
from onnxprune.api.recipe import Recipe
from onnxprune.api.result import Result
from onnxprune.api.stages import Opened, apply, finish
from onnxprune.api.verify import Verification
from onnxprune.errors import NoGain
from onnxprune.model.model import replacing
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.search.speed import SpeedUp, faster
from onnxprune.search.trials import Trials
from onnxprune_passes import Activations


class Tries:
    """Each try works on a copy of the model that the passes of no loss have prepared.

    Args:
        opened: the model.
        recipe: the passes.
        target: the file to write in the end.
        checks: see `Checks`.
    """

    def __init__(self, opened: Opened, recipe: Recipe, target: Path, checks: Checks) -> None:
        self.opened, self.recipe, self.target, self.checks = opened, recipe, target, checks
        self.verification = Verification(opened.source, checks)

    def copy(self) -> Tries:
        """Tries of the model as it is now, held against the same outputs of the original."""
        twin = Tries(self.opened.copy(), self.recipe, self.target, self.checks)
        twin.verification = self.verification
        return twin

    def sped(self, known: Trials | None = None) -> SpeedUp | None:
        """Give the recipe the shares of channels that bring its speed-up, where it asks for one; before any try.

        Args:
            known: remembers them.

        Raises:
            ToleranceMissed: no shares do.
        """
        recipe, opened, wanted = self.recipe, self.opened, self.recipe.shapes.speed_up
        if wanted is None:
            return None
        name = f"speed-up {wanted!r}"
        held = None if known is None else known.get(name)
        if held is not None:
            found = SpeedUp(**held | {"shares": tuple(held["shares"])})
        else:
            shapes, progress = recipe.shapes, self.checks.progress
            removal, after = shapes.removal(recipe.repairing), shapes.after(encoded=False)
            found = faster(opened.model, opened.source, wanted, removal, after, progress)
            if known is not None:
                known.add(name, asdict(found))
        self.recipe = replace(recipe, shapes=recipe.shapes.sharing(found.shares))
        return found

    @property
    def spent(self) -> float:
        """What the weights had lost before."""
        return self._prepared[0].run.model.spent

    def write(self, loss: float, place: Path) -> None:
        """Write the result of a loss, neither verified nor reported."""
        with replacing(place) as staged:
            apply(self._at(loss, silent), staged)

    def finished(self, loss: float, *, saving: bool = True, judge: Callable[[Path], None] | None = None) -> Result:
        """Write the result of a loss to the target, verified.

        Args:
            loss: see the encode pass.
            saving: whether the model stays as it was where it does not become smaller.
            judge: see `finish`.

        Raises:
            ToleranceMissed: it is not within the tolerance; nothing is written.
        """
        made = self._at(loss, self.checks.progress)
        return finish(made, self.target, self.checks, self.verification, self.recipe.saving if saving else None, judge)

    def only(self, loss: float) -> Result:
        """`finished` where no other loss is tried, and nothing has to be kept for one."""
        self.opened.take(self.recipe.steps(loss), self.checks.progress)
        _require_integers(self.opened)
        made = self._stripped(self.opened, loss, self.checks.progress)
        return finish(made, self.target, self.checks, self.verification, self.recipe.saving)

    def _at(self, loss: float, progress: Progress) -> Opened:
        """The model after all passes."""
        prepared, measured = self._prepared
        made = prepared.copy()
        if measured is None:
            made.take(self.recipe.steps(loss)[len(made.run.steps) :], progress)
            _require_integers(made)
        else:
            step = self.recipe.encode(loss)
            made.run.take(step, lambda model, told: step.store(model, measured, told), progress)
        return self._stripped(made, loss, progress)

    def _stripped(self, made: Opened, loss: float, progress: Progress) -> Opened:
        """The model without what died when its weights were stored, where that takes fewer bytes."""
        following = self.recipe.following(loss) if made.run.changes[-1].emptied else []
        if not following:
            return made
        decode, dead, encode = following
        without = made.copy()
        without.take([decode, dead], progress)
        if not without.run.changes[-1].modified:
            return made
        without.take([encode], progress)
        return min(made, without, key=_size)  # other shapes may pack less well

    @cached_property
    def _prepared(self) -> tuple[Opened, Measurements | None]:
        """The model after the passes that no loss changes; measured where only its encoding is still to come."""
        opened, progress, fixed = self.opened, self.checks.progress, self.recipe.fixed()
        opened.take(fixed, progress)
        _require_integers(opened)
        encode = self.recipe.encode(0.0)
        alone = len(fixed) + 1 == len(self.recipe.steps(0.0))
        return opened, opened.run.measure(encode.measure, progress) if alone else None


def _size(made: Opened) -> int:
    """About the bytes of the file."""
    model = made.run.model
    return model.proto.ByteSize() + model.payloads.nbytes


def _require_integers(opened: Opened) -> None:
    """Refuse a model in which no layer computes with integers, where a pass that ran was to see to it.

    Raises:
        NoGain: there is none.
    """
    ran = zip(opened.run.steps, opened.run.changes, strict=True)
    if any(isinstance(step, Activations) and not change.integers for step, change in ran):
        raise NoGain(
            "activations int8 gains nothing here: there is no 2-D convolution without groups, with constant weights "
            "and enough inputs, that a ReLU, a SiLU, a sum or another convolution follows"
        )

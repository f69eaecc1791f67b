"""The phases of prune and retrain: prune, the user's command, the weights back into the graph, evaluate.

round-0/    names.safetensors (which parameter is which weight), evaluate.out, evaluate.log of the unpruned model
round-N/    pruned.onnx, masks.safetensors   what the retrain command gets
            retrained.safetensors (or as {out.SUFFIX} says), retrain.log
            model.onnx                       the retrained weights in the graph; with `splice` also spliced.safetensors
            evaluate.out, evaluate.log
state.json  the finished phases; see `journal`

Round N prunes model.onnx of round N - 1. Every phase can be repeated: it reads only what earlier phases left, and its
files appear whole.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core.commands import Command, last_lines
from onnxprune.core.dtypes import FLOATS, Array
from onnxprune.core.files import digest, staged
from onnxprune.errors import CheckpointError, CommandError, OptionError
from onnxprune.masks import checkpoints
from onnxprune.masks import file as mask_files
from onnxprune.masks.alignment import weights_of
from onnxprune.masks.apply import Recorder, lay, survivors, to_file
from onnxprune.masks.file import MaskFile
from onnxprune.masks.matching.link import Link, Parameter
from onnxprune.masks.matching.match import Matches, match
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Kind, Reason
from onnxprune.pipeline.per_weight import PerWeight
from onnxprune.pipeline.run import run as run_passes
from onnxprune.retraining.schedule import SCHEDULES, sparsity
from onnxprune_passes import Decode, Magnitude, Update

Facts = dict[str, Any]
Found = tuple[list[Path], Facts]  # the files of a phase, and what it found out
Phase = Callable[[int, Facts], Found]


@dataclass(frozen=True, kw_only=True)
class RetrainingPlan:
    """What the files of the rounds depend on; see `iterate.iterate`."""

    model: Path
    names_from: Path | None
    to: float | None
    rounds: int
    schedule: str
    scope: str
    set: tuple[str, ...]
    include: tuple[str, ...]
    skip: tuple[str, ...]
    retrain: str
    evaluate: str | None
    splice: bool

    def __post_init__(self) -> None:
        """Check the options."""
        if self.rounds < 1:
            raise OptionError(f"rounds must be at least 1, not {self.rounds}")
        if self.schedule not in SCHEDULES:
            raise OptionError(f"schedule '{self.schedule}' is not one of {', '.join(SCHEDULES)}")
        self.magnitude(self.rounds)

    def arguments(self) -> dict[str, Any]:
        """For the journal: files count by what they hold."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        held |= {name: list(held[name]) for name in ("set", "include", "skip")}
        held["model"] = [digest(path) for path in _files_of(self.model)]
        if self.names_from is not None:
            checkpoints.read(self.names_from)  # says what is wrong with it before anything is done
            held["names_from"] = digest(self.names_from)
        return held

    def asked(self, number: int) -> float | None:
        """The sparsity of a round, for all weights."""
        return None if self.to is None else sparsity(self.schedule, self.to, number, self.rounds)

    def magnitude(self, number: int) -> Magnitude:
        """The pass that prunes in a round."""
        final = Magnitude(sparsity=self.to, set=self.set, scope=self.scope, include=self.include, skip=self.skip)
        if number == self.rounds:
            return final
        shares = final.shares.entries
        scaled = PerWeight(tuple((name, sparsity(self.schedule, s, number, self.rounds)) for name, s in shares))
        return dataclasses.replace(final, sparsity=self.asked(number), set=scaled.texts())


class Phases:
    """The phases of each round; each reads files and leaves files.

    Raises:
        OptionError: a command is not usable.
    """

    def __init__(self, plan: RetrainingPlan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        known = ["model", "masks", "out", "round", "rounds"]
        known += ["sparsity"] if plan.to is not None else []
        known += ["checkpoint"] if plan.names_from is not None else []
        self.retrain = Command("retrain", plan.retrain, known, ("out",))
        self.evaluate = None if plan.evaluate is None else Command("evaluate", plan.evaluate, ("model",), ("model",))

    def of(self, number: int) -> Iterator[tuple[str, Phase]]:
        """The phases of a round, in their order; each takes the round and what round 0 found out."""
        if number:
            yield from (("prune", self._prune), ("retrain", self._retrain), ("ingest", self._ingest))
        else:
            yield "names", self._names
        if self.evaluate is not None:
            yield "evaluate", self._evaluate

    def model(self, number: int) -> Path:
        """What a round came to; that of round 0 is the unpruned model."""
        return self._file(number, "model.onnx") if number else self.plan.model

    def masks(self, number: int) -> Path:
        """The masks of that model."""
        return self._file(number, "spliced.safetensors" if self.plan.splice else "masks.safetensors")

    def _file(self, number: int, name: str) -> Path:
        return self.folder / f"round-{number}" / name

    def _retrained(self, number: int) -> Path:
        """What the retrain command writes in a round."""
        return self._file(number, f"retrained{self.retrain.suffix('out', '.safetensors')}")

    def _names(self, number: int, known: Facts) -> Found:
        """Which parameter is which weight: found once, since retrained values are others."""
        model, path = Model.load(self.plan.model), self._file(number, "names.safetensors")
        Decode().run(model)
        weights = find(model)
        if self.plan.names_from is not None:
            matches = match(model, checkpoints.read(self.plan.names_from))
        else:
            named = [w for w in weights if w.element in FLOATS and w.store != "constant" and w.kind != "unused"]
            matches = Matches({w.name: Parameter(w.shape, (Link(w.name),)) for w in named}, {})
        mask_files.write(path, MaskFile(digest(self.plan.model), weights_of(model), matches.parameters, {}))
        unmatched = {name: reason.text for name, reason in matches.unmatched.items()}
        return [path], {"parameters": sum(w.size for w in weights), "unmatched": unmatched}

    def _prune(self, number: int, known: Facts) -> Found:
        model, pruned = Model.load(self.model(number - 1)), self._file(number, "pruned.onnx")
        masks = self._file(number, "masks.safetensors")
        notes, kept = self._pruned(model, number, known, masks)
        if not kept:
            raise OptionError(f"no weight of {self.plan.model} is pruned: `onnxprune inspect` says why")
        model.save(pruned)
        return [*_files_of(pruned), masks], {"notes": notes}

    def _pruned(self, model: Model, number: int, known: Facts, masks: Path) -> tuple[list[str], dict[str, Array]]:
        """Prune in place and write the masks: what a user should know, and weight -> True where it is kept."""
        names = mask_files.read(self._file(0, "names.safetensors")).parameters
        steps = [Decode(), self.plan.magnitude(number)]
        unmatched = {name: Reason(Kind.UNMATCHED, text) for name, text in known["unmatched"].items()}
        recorder = Recorder(model, steps, Matches(dict(names), unmatched))
        run_passes(model, steps, ran=recorder)
        file, notes = to_file(recorder.taken, self.model(number - 1), recorder.matches)
        mask_files.write(masks, file)
        return notes, recorder.taken.kept

    def _retrain(self, number: int, known: Facts) -> Found:
        target = self._retrained(number)
        values = {
            "model": self._file(number, "pruned.onnx"), "masks": self._file(number, "masks.safetensors"),
            "round": number, "rounds": self.plan.rounds, "sparsity": self.plan.asked(number),
            "checkpoint": self._retrained(number - 1) if number > 1 else self.plan.names_from,
        }  # fmt: skip
        log = self._file(number, "retrain.log")
        with staged(target) as place:
            self.retrain.run({**values, "out": place}, log)
            if not place.is_file():
                raise CommandError(
                    f"the retrain command ended well and wrote no {{out}}, which was {place}; its output is in {log}",
                    last_lines(log),
                )
            written = [path for path in sorted(place.parent.iterdir()) if path.is_file()]
            for path in written:
                _flush(path)
        return [target.with_name(path.name) for path in written], {}

    def _ingest(self, number: int, known: Facts) -> Found:
        """The retrained weights in the graph; what was pruned must be zero, or is pruned anew."""
        source = self._retrained(number)
        masks, path = self._file(number, "masks.safetensors"), self.model(number)
        model = Model.load(self._file(number, "pruned.onnx"))
        update = Update(source=str(source), masks=str(masks), lay_masks=False)
        notes, laid = update.run(model).notes, lay(mask_files.read(masks), model, str(path))
        files, returned = [path], 0
        if self.plan.splice:
            files.append(self.masks(number))
            said, kept = self._pruned(model, number, known, self.masks(number))
            notes += said
            returned = sum(int(np.count_nonzero(kept[name] & ~before)) for name, before in laid.items())
        elif alive := survivors(model, laid):
            text = ", ".join(f"'{name}' {count:,}" for name, count in alive.items())
            raise CheckpointError(
                f"{source}: pruned weights are not zero any more: {text}. Multiply by the masks after every step, or "
                "let weights return with splice"
            )
        model.save(path)
        weights = find(model)
        zeros = {w.name: w.zeros(w.array(model)) for w in weights}
        pruned = [w for w in weights if w.name in laid]
        return [*_files_of(path), *files[1:]], {
            "sparsity": sum(zeros[w.name] for w in pruned) / sum(w.size for w in pruned),
            "nonzero": sum(w.size for w in weights) - sum(zeros.values()), "returned": returned, "notes": notes,
        }  # fmt: skip

    def _evaluate(self, number: int, known: Facts) -> Found:
        assert self.evaluate is not None
        folder = self._file(number, "evaluate.out").parent
        return [], {"metric": self.evaluate.number({"model": self.model(number)}, folder)}


def _files_of(model: Path) -> list[Path]:
    return [model, *Model.load(model).companions()]


def _flush(path: Path) -> None:
    """What another program wrote is on the disk before the state says so."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""Prune, retrain by the user's command, take the weights back, evaluate, again; killed at any point it goes on."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from onnxprune.allocation import curves
from onnxprune.core.files import PathLike
from onnxprune.errors import OptionError, OutputError
from onnxprune.model.model import Model
from onnxprune.retraining.journal import Journal, opened
from onnxprune.retraining.phases import Facts, Phases, RetrainingPlan
from onnxprune.retraining.results import Iteration, Round, winner
from onnxprune.runtime.metrics import Limit

Say = Callable[[str], None]


def silent(line: str) -> None:
    """A line of progress, and nobody reads it."""


def iterate(
    model: PathLike, out: PathLike, *, retrain: str, to: float | None = None, rounds: int = 6, schedule: str = "cubic",
    scope: str = "layer", set: Sequence[str] = (), include: Sequence[str] = (), skip: Sequence[str] = (),
    scan: PathLike | None = None, evaluate: str | None = None, tolerance: float | None = None,
    lower_is_better: bool = False, names_from: PathLike | None = None, work: PathLike | None = None,
    splice: bool = False, restart: bool = False,
    say: Say = silent,
) -> Iteration:  # fmt: skip
    """Prune and retrain in rounds of rising sparsity; write the sparsest model that is good enough.

    Killed at any point, a call with the same arguments goes on where it was. `out`, `tolerance` and
    `lower_is_better` only choose among the rounds and may change.

    Args:
        model: the trained model.
        out: the file to write: dense, with zeros.
        retrain: the command that trains `{model}` under `{masks}` and writes a checkpoint, or a re-exported model, to
            `{out}`. `{out}` ends in .safetensors, `{out.npz}`, `{out.pt}` and `{out.onnx}` as they say. `{round}`,
            `{rounds}` and `{sparsity}` are numbers; with `names_from`, `{checkpoint}` is what the round begins with:
            that file, then what the last round wrote. It is split like a shell's and run without one.
        to: the sparsity after the last round.
        rounds: how many rounds.
        schedule: cubic, linear or geometric; see `schedule`.
        scope: what the sparsity is of, as in the magnitude pass.
        set: "PATTERN=SPARSITY" after the last round; scaled along the schedule before.
        include: globs of weights to prune although they are left alone by default, such as biases.
        skip: globs of weights to leave alone.
        scan: a sensitivity scan of the model: `to` is of all layers that it has, shared out such that each costs the
            metric about the same; `set` changes single ones.
        evaluate: the command that prints one number for `{model}` as its last line, higher is better.
        tolerance: how far below the unpruned model's number a round may be.
        lower_is_better: the number is an error; the tolerance is above it.
        names_from: the checkpoint that the model was exported from. Without it the parameters have the names of the
            ONNX initializers.
        work: the folder of the rounds; `OUT.rounds` without it.
        splice: a weight comes back if its retrained value is large enough (Guo et al. 2016, dynamic network surgery):
            the masks are taken anew, at the same sparsity, from what was retrained.
        restart: forget what the folder holds.
        say: called with each line of progress.

    Raises:
        CommandError: a command failed, or printed no number.
        CheckpointError: retrained weights do not fit, or pruned ones are not zero and `splice` is not asked for.
        ToleranceMissed: no round is within the tolerance; nothing is written.
        OnnxPruneError: see `onnxprune.errors`.
    """
    if scan is not None:
        if scope != "layer":
            raise OptionError(f"scope {scope} shares the sparsity out, and so does the scan: give one")
        set = [*curves.of_model(Path(scan), Model.load(model).sha256()).targets(to), *set]
    plan = RetrainingPlan(
        model=Path(model), names_from=None if names_from is None else Path(names_from), to=to, plain=scan is None,
        rounds=rounds, schedule=schedule, scope=scope, set=tuple(set), include=tuple(include), skip=tuple(skip),
        retrain=retrain, evaluate=evaluate, splice=splice,
    )  # fmt: skip
    target, folder = Path(out), Path(f"{os.fspath(out)}.rounds") if work is None else Path(work)
    _check(plan, target, folder, tolerance)
    phases = Phases(plan, folder)
    with opened(folder, plan.arguments(), restart=restart) as journal:
        base, results, notes = _run(phases, journal, say)
        metric = base.get("metric")
        limit = None if tolerance is None or metric is None else Limit.of(metric, tolerance, lower_is_better)
        judged = [_judged(result, limit) for result in results]
        best = winner(judged, limit)
        Model.load(best.model).save(target)
        return Iteration(
            str(target), base["parameters"], metric, None if limit is None else limit.value, tuple(judged), best.number,
            tuple(notes),
        )  # fmt: skip


def _judged(result: Round, limit: Limit | None) -> Round:
    """The round, and whether its metric is within the limit where there is one."""
    if limit is None or result.metric is None:
        return result
    return dataclasses.replace(result, within=limit.holds(result.metric))


def _check(plan: RetrainingPlan, target: Path, folder: Path, tolerance: float | None) -> None:
    """Refuse, before a round runs, what would be refused after it."""
    if tolerance is not None and (plan.evaluate is None or not math.isfinite(tolerance) or tolerance < 0):
        raise OptionError("tolerance must be a number from 0 up, and needs an evaluate command")
    if target.resolve() in {path.resolve() for path in (plan.model, plan.names_from) if path is not None}:
        raise OutputError(f"{target} is an input: choose another output")
    if not target.parent.is_dir() or (target.exists() and not target.is_file()) or target.resolve() == folder.resolve():
        raise OutputError(f"cannot write {target}: it must be a file in a folder that exists")


def _run(phases: Phases, journal: Journal, say: Say) -> tuple[Facts, list[Round], list[str]]:
    """Every phase that is not finished: facts about the unpruned model, the rounds, and notes."""
    if journal.forgotten is not None:
        say(f"{journal.forgotten}: its files were changed since, so that it runs again")
    known: Facts = {}
    rounds: list[Round] = []
    notes: list[str] = []
    for number in range(phases.plan.rounds + 1):
        facts: Facts = {}
        for name, phase in phases.of(number):
            key = f"round-{number} {name}"
            found = journal.facts(key)
            if found is None:
                say(f"round {number} of {phases.plan.rounds}: {name}")
                (journal.folder / f"round-{number}").mkdir(exist_ok=True)
                files, found = phase(number, known)
                journal.finish(key, files, found)
            facts |= found
            notes += (note for note in found.get("notes", ()) if note not in notes)
        if number:
            rounds.append(_round(phases, number, facts))
        else:
            known = facts
        zeros = f"{100 * rounds[-1].sparsity:.2f} % zero" if number else "unpruned"
        metric = f", metric {facts['metric']:g}" if "metric" in facts else ""
        say(f"round {number} of {phases.plan.rounds}: {zeros}{metric}")
    return known, rounds, notes


def _round(phases: Phases, number: int, facts: Facts) -> Round:
    return Round(
        number, phases.plan.asked(number), facts["sparsity"], facts["nonzero"], facts["returned"], facts.get("metric"),
        None, str(phases.model(number)), str(phases.masks(number)),
    )  # fmt: skip

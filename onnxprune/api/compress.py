"""The words of the command line as functions: what the CLI calls and prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from onnxprune.allocation import curves as curve_files
from onnxprune.allocation.rate_distortion import LOSS, LOSS_ON_DATA
from onnxprune.api.in_memory import takes_arrays
from onnxprune.api.options.keywords import CheckKeywords, CompressKeywords, PruneKeywords, explicit
from onnxprune.api.options.objects import Calibration, Checks, Computing, Deciding, Rule, Storing, taken
from onnxprune.api.options.stripping import Stripping
from onnxprune.api.recipe import Recipe
from onnxprune.api.remote import local
from onnxprune.api.result import Result
from onnxprune.api.stages import Saving, check_places, open_model, placed, running
from onnxprune.api.transform import transformed
from onnxprune.api.tries import Tries
from onnxprune.api.verify import FarOff
from onnxprune.core import threads
from onnxprune.core.files import PathLike
from onnxprune.errors import DataError, NotVerified, OptionError, ToleranceMissed
from onnxprune.model.model import Model
from onnxprune.runtime.deviation import FAR_DB
from onnxprune.search import trials
from onnxprune.search.budget import CALIBRATION, Search
from onnxprune.search.halves import MIN_HALF_SAMPLES, halves
from onnxprune.search.importance import importance_of
from onnxprune.search.promise import Promise, Promised, next_attempt
from onnxprune.search.speed import SpeedUp, faster
from onnxprune_passes import Decode, Fold

_HALVINGS = 8
_TIMES = (1, 4, 16)  # smaller is a loss that is tried where outputs are far off, and nobody said what may be lost
_FEW = f"fewer than {2 * MIN_HALF_SAMPLES} samples judge nothing: the loss is that of no data"


@local(writes="out")
@takes_arrays
@explicit(Rule, Storing, Computing, Stripping, Deciding, Checks)
def compress(model: PathLike, out: PathLike | None = None, **options: Unpack[CompressKeywords]) -> Result:
    """Prune by magnitude, remove dead neurons, store each weight in its smallest form, verify.

    Weights that are encoded already are decoded first. Without `out` the file is `MODEL.pruned.onnx`. The rules
    (`sparsity` to `skip`) are those of the magnitude pass; with none of them the loss decides. `values` is auto, a
    value form, and "PATTERN=FORM" for single weights; `values`, `loss`, `prefer` and `encoding` are those of the
    encode pass. A form other than auto prunes nothing where neither a rule nor a loss is given and nothing judges the
    result. `channels` removes a share of whole channels first, and "PATTERN=SHARE" of those that the matching
    weights make; with `data` what reads them is refitted (`multiple` is the pass's). `speed_up` looks for the shares at
    which a run takes so many times less processor time on this machine, at the least cost to the layers.
    `strip=False` leaves all shapes alone, `strip_metadata` drops doc strings and metadata that no runtime reads,
    `freeze` takes initializers out of the inputs. With `activations="int8"` and `data` convolutions compute with
    8-bit integers. With a `scan` (see `sensitivity.scan`) `sparsity` is of all layers that it has, shared out such
    that each costs the metric about the same, and `set` changes single ones; without a rule the loss of a layer
    counts for what it costs the metric there.
    Where the loss decides, a `tolerance` halves it until the result keeps within. With `max_drop` the largest loss is
    searched for at which the metric is no more than that worse than the original's, on both halves of the data
    (`search`). After `time_limit` seconds the best that was found is written. With `data` and no word on what may be
    lost, one half of the samples calibrates and the other judges: the loss becomes smaller until the result keeps the
    `promise`; where none does, the one that changes least is written and said not to. Without data it becomes smaller
    where outputs are far off. The rest of the keywords are those of `transform`.

    Raises:
        ToleranceMissed: the result is not within the tolerance, no loss is within the drop, or no channels bring the
            speed-up.
        OnnxPruneError: see `onnxprune.errors`.
        TypeError: there is no such keyword.
    """
    rule, shapes, deciding = taken(Rule, options), taken(Stripping, options), taken(Deciding, options)
    checks, storing, computing = taken(Checks, options), Storing.of(options, "auto"), taken(Computing, options)
    computing.check(checks.data, storing.target)
    if deciding.scan is not None and rule.scope != "layer":
        raise OptionError(f"scope {rule.scope} shares the sparsity out, and so does the scan: give one")
    searched = deciding.max_drop is not None
    calibration = Calibration(data=checks.data)
    if searched:
        calibration = Calibration(data=checks.data, samples=CALIBRATION, half=checks.data is not None)
    recipe = Recipe(
        rule=rule, storing=storing, computing=computing, shapes=shapes, calibration=calibration, repairing=calibration
    )  # fmt: skip
    if searched and (storing.loss is not None or checks.tolerance is not None or recipe.settled):
        raise OptionError("max-drop searches for the loss: leave out loss and tolerance, and values beside a rule")
    open_ended = not (searched or rule.given or recipe.settled or storing.loss is not None)
    judged = open_ended and checks.data is not None and checks.verify and checks.tolerance is None
    recipe = replace(recipe, forms_prune=not open_ended or judged or checks.tolerance is not None)
    loss = LOSS if storing.loss is None else storing.loss
    if open_ended and checks.data is not None and checks.tolerance is not None:
        loss = LOSS_ON_DATA
    steps = recipe.steps(loss)  # says what is wrong with the options before anything is read
    source = Path(model)
    target = placed(source, out)
    check_places(checks, source, target)
    with threads.using(checks.jobs):
        opened = open_model(source, target, steps, checks)
        if deciding.scan is not None:
            recipe = _scanned(recipe, opened.model, Path(deciding.scan))
        with running(opened, checks):
            promise = _promise(source, checks) if judged else None
            if promise is not None:
                recipe = replace(recipe, repairing=replace(calibration, half=True))
            elif judged:
                recipe = replace(recipe, forms_prune=False)
            tries = Tries(opened, recipe, target, checks)
            if searched:
                return _searched(tries, deciding)
            speed_up = tries.sped()
            with _blamed(speed_up):
                result = replace(_decided(tries, promise, loss, open_ended), speed_up=speed_up)
            unjudged = judged and promise is None and checks.evaluate is None
            return replace(result, notes=[_FEW, *result.notes]) if unjudged else result


def _decided(tries: Tries, promise: Promise | None, loss: float, open_ended: bool) -> Result:
    """The result of a loss that is given, or small enough; where it is `open_ended` nobody said what may be lost."""
    if promise is not None:
        return _promised(tries, promise)
    if tries.checks.tolerance is None or tries.recipe.settled:
        weighed = open_ended and tries.recipe.storing.values == "auto" and tries.checks.verify
        return _near(tries, loss) if weighed else tries.only(loss)
    return _halved(tries, loss)


def _near(tries: Tries, loss: float) -> Result:
    """The result of the default loss, or of a smaller one where its outputs are far off.

    A loss is one of weights. Some networks amplify it, and only running them tells.
    """
    tried: list[str] = []
    losses = [loss / times for times in _TIMES]
    for smaller in losses:
        tries.verification.far = None if smaller == losses[-1] else FAR_DB
        try:
            result = tries.copy().only(smaller)
        except FarOff as error:
            tried.append(f"{smaller:g} ({error})")
            continue
        if tried:
            note = f"the loss is {smaller:g}: outputs were far off at {' and '.join(tried)}"
            return replace(result, notes=[note, *result.notes])
        return result
    raise AssertionError("the last result is written, however far off")


@contextlib.contextmanager
def _blamed(speed_up: SpeedUp | None) -> Iterator[None]:
    """A result that is not good enough says what channels have to do with it."""
    try:
        yield
    except ToleranceMissed as error:
        if speed_up is None or isinstance(error, NotVerified):
            raise
        text = f"{error.args[0]}; the channels that speed-up {speed_up.wanted:g} takes count towards it"
        raise ToleranceMissed(text) from error


def _scanned(recipe: Recipe, model: Model, scan: Path) -> Recipe:
    """The recipe with a scan of the model: it shares a sparsity out, or weighs the loss."""
    curves = curve_files.of_model(scan, model.sha256())
    rule = recipe.rule
    if rule.given:
        return replace(recipe, rule=replace(rule, set=(*curves.targets(rule.sparsity), *rule.set), sparsity=None))
    decoded = model.copy()
    Decode().run(decoded)
    return replace(recipe, importance=importance_of(decoded, curves))


def _halved(tries: Tries, loss: float) -> Result:
    """The first result that is within the tolerance, of losses that are each half of the one before."""
    for _ in range(_HALVINGS):
        try:
            return tries.finished(loss)
        except NotVerified:
            raise
        except ToleranceMissed:
            loss /= 2
    return tries.finished(loss)


def _promise(source: Path, checks: Checks) -> Promise | None:
    """What judges by the second half of the data; None where that has too few samples, or a command judges."""
    assert checks.data is not None
    if checks.evaluate is not None:
        return None
    try:
        held_out = halves(source, Path(checks.data), checks.samples)[1]
    except DataError:  # too few for two halves; what else is wrong with it the verification says
        return None
    return Promise(source, checks.question, held_out) if held_out.count >= MIN_HALF_SAMPLES else None


def _promised(tries: Tries, promise: Promise) -> Result:
    """The result of the largest loss that was seen to keep the promise; of the last one where none does."""
    recipe, half = tries.recipe, replace(tries.recipe.calibration, half=True)
    without = half if recipe.storing.needs_data else Calibration()
    plain = Tries(tries.opened.copy(), replace(recipe, calibration=without), tries.target, tries.checks)
    calibrated = Tries(tries.opened, replace(recipe, calibration=half), tries.target, tries.checks)
    found: list[Promised] = []
    most = promise.most(calibrated.spent)
    upcoming = next_attempt(found, most)

    def judge(place: Path) -> None:
        nonlocal upcoming
        assert upcoming is not None
        found.append(promise.of(place, upcoming))
        upcoming = next_attempt(found, most)
        if upcoming is not None:
            raise ToleranceMissed("another loss is tried")

    while upcoming is not None:
        chosen = calibrated if upcoming.calibrated else plain
        with contextlib.suppress(ToleranceMissed):
            return replace(chosen.finished(upcoming.loss, judge=judge), promise=found[-1])
    raise AssertionError("the last attempt is written, kept or not")


def _searched(tries: Tries, deciding: Deciding) -> Result:
    """The result of the largest loss at which the metric is within the drop; see `search`."""
    checks, source = tries.checks, tries.opened.source
    assert deciding.max_drop is not None
    search = Search(
        source, tries.write, checks.question, None if checks.data is None else Path(checks.data), checks.samples,
        deciding.max_drop, deciding.time_limit, checks.progress,
    )  # fmt: skip
    steps = [*map(str, tries.recipe.steps(1.0)), *map(str, filter(None, [tries.recipe.shapes.speed_up]))]
    common = search.common(tries.opened.model.sha256(), " ".join(steps))
    journal = tries.target.with_name(f"{tries.target.name}.trials")
    with trials.opened(journal, common) as known:
        speed_up = tries.sped(known)
        with _blamed(speed_up):
            found = search.run(known)
        result = tries.finished(found.loss, saving=False)
        known.done()
    return replace(result, search=found, speed_up=speed_up)


@local(writes="out")
@takes_arrays
@explicit(Rule, Checks)
def prune(model: PathLike, out: PathLike, *, loss: float | None = None, **options: Unpack[PruneKeywords]) -> Result:
    """Zero the smallest weights; the file stays dense.

    Options are those of the magnitude pass and of `transform`.
    """
    checks = taken(Checks, options)
    magnitude = taken(Rule, options).magnitude(loss, Calibration(data=checks.data if loss is None else None))
    return transformed(model, out, [Decode(), magnitude], checks)


@local(writes="out")
@takes_arrays
@explicit(Checks)
def encode(
    model: PathLike, out: PathLike, *, values: str | Sequence[str] = "exact", loss: float | None = None,
    prefer: str = "speed", encoding: str = "auto", target: str | Sequence[str] = (), **checks: Unpack[CheckKeywords],
) -> Result:  # fmt: skip
    """Store each weight in its smallest form: as it is, or with other values than exact within their loss.

    A file that would not get smaller stays byte for byte as it was.

    Args:
        model: the model.
        out: the file to write.
        values: the form of the values of every weight, and "PATTERN=FORM" for some; see the encode pass.
        loss: what `auto` may lose, summed over all weights; None is the default of the encode pass.
        prefer: speed or size.
        encoding: auto, graph, coo, or the name of an encoding.
        target: the runtimes that the file is for, such as "tract" or "onnxruntime>=1.22"; any: all that are known.
        checks: the keywords of `transform`, from `data` on.

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
        TypeError: there is no such keyword.
    """
    given = {"values": values, "prefer": prefer, "encoding": encoding, "target": target}
    storing = Storing.of(given, "exact")
    judged = taken(Checks, checks)
    calibration = Calibration(data=judged.data) if storing.needs_data else Calibration()
    step = storing.encode(LOSS if loss is None else loss, keep_zeros=True, calibration=calibration)
    return transformed(model, out, [step], judged, Saving({step.name}, storing.encoding != "auto"))


@local(writes="out")
@takes_arrays
@explicit(Checks)
def decode(model: PathLike, out: PathLike, **checks: Unpack[CheckKeywords]) -> Result:
    """Every encoded weight back as a dense initializer, bit for bit."""
    return transformed(model, out, [Decode()], taken(Checks, checks))


@local(writes="out")
@takes_arrays
@explicit(Checks)
def strip(
    model: PathLike, out: PathLike, *, channels: float | str | Sequence[float | str] | None = None,
    speed_up: float | None = None, score: str = "", scope: str = "layer", multiple: int | None = None,
    strip_metadata: bool = False, freeze: bool = False, **checks: Unpack[CheckKeywords],
) -> Result:  # fmt: skip
    """Remove dead neurons, and whole channels before them.

    Args:
        model: the model; encoded weights are decoded first.
        out: the file to write.
        channels: the share of whole channels to remove, 0 <= channels < 1, and "PATTERN=SHARE" of those that the
            matching weights make; None removes dead ones only.
        speed_up: how many times less processor time a run is to take on this machine; the shares are looked for at
            which the layers miss least, on `data`.
        score: l1, l2 or batchnorm, by which channels are ranked, or obs, which goes with data and refits what reads
            them; empty: obs with data, else l1.
        scope: layer or global: what the share is taken over.
        multiple: the numbers of channels that stay are rounded up to a multiple of this; None: to one of 4 behind
            convolutions, which ONNX Runtime computes in blocks of channels.
        strip_metadata: whether doc strings and metadata go that no runtime reads.
        freeze: whether initializers that are inputs are so no longer.
        checks: the keywords of `transform`, from `data` on.

    Raises:
        ToleranceMissed: no channels bring the speed-up.
        OnnxPruneError: see `onnxprune.errors`.
        TypeError: there is no such keyword.
    """
    judged = taken(Checks, checks)
    calibration = Calibration(data=judged.data)
    given = {
        "channels": channels, "speed_up": speed_up, "multiple": multiple, "strip_metadata": strip_metadata,
        "freeze": freeze,
    }  # fmt: skip
    shapes = taken(Stripping, given)
    removal = shapes.before(calibration, score, scope)
    found = None
    if speed_up is not None:
        source = Path(model)
        check_places(judged, source, placed(source, out))
        with threads.using(judged.jobs):
            found = faster(
                Model.load(source), source, speed_up, shapes.removal(calibration), shapes.after(encoded=False),
                judged.progress,
            )  # fmt: skip
        removal = shapes.sharing(found.shares).before(calibration, score, scope)
    steps = [*shapes.first(), *([Fold()] if removal else []), *removal, *shapes.after(encoded=False)]
    return replace(transformed(model, out, steps, judged), speed_up=found)

"""Run two models on the same inputs and compare their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.api.in_memory import takes_arrays
from onnxprune.api.options.objects import Checks
from onnxprune.api.remote import local
from onnxprune.api.result import Cost, Deviation
from onnxprune.core.files import PathLike
from onnxprune.errors import NotVerified, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.scopes import custom_domains
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.deviation import CLOSE_DB, FAR_DB, OutputDeviation, compare
from onnxprune.runtime.held_data import Data, path_of
from onnxprune.runtime.judge import Judge, Metric
from onnxprune.runtime.samples import Samples, batch_of
from onnxprune.runtime.session import (
    Feeds,
    Input,
    Runner,
    as_written,
    each_run,
    inputs_of,
    open_session,
    run,
    series_of,
)

if TYPE_CHECKING:
    import onnxruntime as ort

    from onnxprune.runtime.synthetic_inputs import CannotSynthesise

_HELD = 1 << 28  # bytes of outputs on synthesised inputs that are kept, and not computed again
_SECONDS, _ROUNDS = 1.0, 100  # of runs of both models: at most so many rounds, and none begins after so many seconds


@local(reads=("a", "b"), packed=True)
@takes_arrays
def verify(
    a: PathLike, b: PathLike, *, data: Data | None = None, samples: int | None = None,
    tolerance: float | None = None, metric: Metric | None = None, evaluate: str | None = None,
    lower_is_better: bool = False,
) -> Deviation:  # fmt: skip
    """Run two models on the same inputs and compare their outputs.

    Args:
        a: the original.
        b: the model that is compared with it.
        data: samples, see `held_data.held`; None synthesises inputs.
        samples: how many samples at most (data), or how many (synthesised).
        tolerance: how much worse than a's the metric of b may be, in points for percent; of sqnr the least, in dB.
        metric: a name of `metrics.NAMES`, a function, or MODULE:FUNCTION; see `judge.Question`.
        evaluate: a command that prints a number for `{model}`, in place of a metric.
        lower_is_better: the number of a function or a command is an error.

    Raises:
        ToleranceMissed: the tolerance was given and missed, or could not be checked.
    """
    checks = Checks(
        data=path_of(data), samples=samples, tolerance=tolerance, metric=metric, evaluate=evaluate,
        lower_is_better=lower_is_better,
    )  # fmt: skip
    return Verification(Path(a), checks).of(Path(b))[0]


class FarOff(Exception):
    """An output is below `Verification.far`: whoever set that tries something else."""


@dataclass(frozen=True)
class _Original:
    """What the original gives: its outputs for some samples (`source` says which), and what judges others by them.

    `inputs` are those of the model, `series` the outputs that are no rows of scores, and `kinds` says in words what
    synthesised inputs are, by name. The outputs are None where it runs again for them.
    """

    session: ort.InferenceSession
    source: str
    samples: Samples
    inputs: list[Input]
    kinds: dict[str, str]
    outputs: list[dict[str, Any]] | None
    series: frozenset[str]
    judge: Judge | None


class Verification:
    """Results held against their original, which runs once however many there are.

    Args:
        source: the original.
        checks: what is asked.

    Attributes:
        far: the SQNR, in dB, that no output may be below; None: any may.
    """

    def __init__(self, source: Path, checks: Checks) -> None:
        self._source, self._checks = source, checks
        self.far: float | None = None
        self._known: float | None = None

    def of(self, result: Path, *, costs: bool = False) -> tuple[Deviation, Cost | None]:
        """Run a result on the inputs of the original; `costs` also counts and times a run of each.

        Raises:
            ToleranceMissed: it is not within the tolerance, or that cannot be checked.
            FarOff: an output is below `far`.
            OnnxPruneError: a model does not run, or the data does not fit.
        """
        # Not while `compress --no-verify` starts.
        from onnxprune.layer_costs.decoding import Decoding, decoding
        from onnxprune.layer_costs.flops import layers
        from onnxprune.layer_costs.in_turn import milliseconds, one_thread
        from onnxprune.runtime.synthetic_inputs import CannotSynthesise

        custom = sorted(custom_domains(self._model.proto))
        if custom:
            return self._unverified(f"it uses custom operators of {', '.join(custom)}"), None
        try:
            original = self._original
        except CannotSynthesise as error:
            open_session(result)  # it must load all the same
            return self._unverified(f"no inputs could be synthesised ({error}); {self._advice(error)}"), None
        feed, judge = original.samples.feeds[0], original.judge
        opened = Runner(open_session(result))
        feeds = original.samples.feeds
        reference = each_run(original.session, feeds) if original.outputs is None else original.outputs
        found = each_run(opened.session, feeds) if judge is None else opened.outputs(feeds)  # a judge reads them again
        outputs = compare(reference, found, original.series)
        self._require_near(outputs)
        batch = batch_of(original.session, feeds) if original.source == "synthetic" else None
        if batch is not None:
            _compare_batch(outputs, batch, original.session, opened.session)
        judged = None
        if judge is not None and self._checks.tolerance is not None and judge.against_original:
            nothing = {output.name: output.says_nothing for output in outputs}
            if nothing and all(nothing.values()):
                said = ", ".join(f"'{name}' is {what}" for name, what in nothing.items())
                raise NotVerified(f"the tolerance cannot be checked on these inputs: {said}")
        if judge is not None:
            baseline = self._baseline(judge)
            measured = judge.value(result) if judge.commanded else judge.of(opened)
            judged = judge.judged(baseline, measured, self._checks.tolerance)
        del opened, found  # sessions of its own time it: a large model is not held twice for that
        cost = None
        if costs:
            models = {"before": self._source, "after": result}
            cost = Cost(
                inputs={name: list(array.shape) for name, array in feed.items()},
                flops={when: sum(layer.flops for layer in layers(path, feed)) for when, path in models.items()},
                latency_ms=milliseconds(one_thread(self._source), one_thread(result), feed, _SECONDS, _ROUNDS),
            )
        found_facts = [output.facts() for output in outputs]
        single = original.samples.single(original.inputs)
        ran = decoding(result, single, self._source, self._model)
        deviation = Deviation(
            original.source, original.samples.count, "", found_facts, judged, original.kinds,
            ran if ran != Decoding() else None,
        )  # fmt: skip
        return deviation, cost

    def _require_near(self, outputs: list[OutputDeviation]) -> None:
        worst = min((o for o in outputs if o.tells), key=lambda output: output.sqnr_db, default=None)
        if self.far is not None and worst is not None and worst.sqnr_db < self.far:
            raise FarOff(f"'{worst.name}' {worst.sqnr_db:.1f} dB")

    @cached_property
    def _model(self) -> Model:
        return Model.load(self._source)

    @cached_property
    def _original(self) -> _Original:
        """What the original gives.

        Raises:
            CannotSynthesise: there is no data, and no inputs were found.
        """
        checks, session = self._checks, open_session(self._source)
        if checks.data is not None:
            source, kinds = "data", {}
            held, inputs = sample_files.load(Path(checks.data), session, checks.samples)
            outputs = None
        else:
            from onnxprune.runtime.synthetic_inputs import SAMPLES, synthesise

            made = synthesise(self._model, session, checks.samples or SAMPLES, held=_HELD)
            source, kinds, held = "synthetic", made.kinds, Samples(made.feeds, len(made.feeds), {}, whole=True)
            outputs, inputs = made.outputs, inputs_of(session)
        asked = checks.tolerance is not None or checks.question.asked or held.judging
        if asked and outputs is None:
            outputs = list(each_run(session, held.feeds))
        judge = Judge(session, checks.question, held, outputs) if asked else None
        return _Original(session, source, held, inputs, kinds, outputs, series_of(session), judge)

    def _advice(self, error: CannotSynthesise) -> str:
        """What to do: data does not help where nothing but what ONNX Runtime's optimiser makes of the model stops."""
        from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

        try:
            synthesise(self._model, open_session(self._source, options=as_written()), 1)
        except (CannotSynthesise, RuntimeFailure):
            return error.advice
        return "without ONNX Runtime's optimisation (ORT_DISABLE_ALL) it runs"

    def _baseline(self, judge: Judge) -> float:
        """The metric of the original, found once."""
        if self._known is None:
            self._known = judge.baseline(self._source)
        return self._known

    def _unverified(self, reason: str) -> Deviation:
        if self._checks.tolerance is not None:
            raise NotVerified(f"the tolerance cannot be checked: {reason}")
        return Deviation("none", reason=reason)


def _compare_batch(
    outputs: list[OutputDeviation], batch: Feeds, original: ort.InferenceSession, result: ort.InferenceSession
) -> None:
    """Note where a result that is close for one sample at a time is something else for three that the original takes.

    Optimisers choose kernels by what they see, and a wrong one may be right for a single row.
    """
    try:
        reference = run(original, batch)
    except RuntimeFailure:
        return
    try:
        found = compare([reference], [run(result, batch)])
    except RuntimeFailure:
        for output in outputs:
            output.differ("it does not run for three samples at once")
        return
    for one, three in zip(outputs, found, strict=True):
        if three.differs or (one.numbers and one.sqnr_db >= CLOSE_DB and three.sqnr_db < FAR_DB):
            one.differ(three.differs or f"SQNR {three.sqnr_db:.1f} dB for three samples at once")

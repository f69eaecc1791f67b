"""Run two models on the same inputs and compare their outputs."""

from __future__ import annotations

from pathlib import Path

from onnxprune.api.options import PathLike, check_request
from onnxprune.api.remote import local
from onnxprune.api.result import Cost, Deviation
from onnxprune.errors import NotVerified
from onnxprune.layer_costs.flops import layers
from onnxprune.model.model import Model
from onnxprune.model.scopes import custom_domains
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.deviation import compare
from onnxprune.runtime.judge import Judge, Question
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import inputs_of, latency, open_session, run
from onnxprune.runtime.synthetic_inputs import SAMPLES, CannotSynthesise, synthesise


@local(reads=("a", "b"))
def verify(
    a: PathLike, b: PathLike, *, data: PathLike | None = None, samples: int | None = None,
    tolerance: float | None = None, metric: str | None = None, evaluate: str | None = None,
    lower_is_better: bool = False,
) -> Deviation:  # fmt: skip
    """Run two models on the same inputs and compare their outputs; the options are those of `transform`.

    Raises:
        ToleranceMissed: the tolerance was given and missed, or could not be checked.
    """
    question = Question(metric, evaluate, lower_is_better)
    check_request(Path(a), None, False, tolerance, True, samples)
    return verified(Path(a), Path(b), data, samples, tolerance, question)[0]


def verified(
    source: Path, result: Path, data: PathLike | None, samples: int | None, tolerance: float | None,
    question: Question, *, costs: bool = False,
) -> tuple[Deviation, Cost | None]:  # fmt: skip
    """Run both models on the same inputs; `costs` also counts and times a run of each."""
    model = Model.load(source)
    custom = sorted(custom_domains(model.proto))
    if custom:
        return _unverified(f"it uses custom operators of {', '.join(custom)}", tolerance), None
    session = open_session(source)
    if data is not None:
        kind = "data"
        held = sample_files.cut(sample_files.read(Path(data)), str(data), inputs_of(session), samples)
    else:
        kind, count = "synthetic", samples or SAMPLES
        try:
            held = Samples(synthesise(model, session, count), count, {})
        except CannotSynthesise as error:
            open_session(result)  # it must load all the same
            return _unverified(f"no inputs could be synthesised ({error}); give --data", tolerance), None
    feeds = held.feeds
    reference = [run(session, feed) for feed in feeds]
    before = latency(session, feeds[0]) if costs else 0.0
    asked = tolerance is not None or question.asked or held.targets
    judge = Judge(session, question, held, reference) if asked else None
    del session
    session = open_session(result)
    outputs = compare(reference, [run(session, feed) for feed in feeds])
    judged = None if judge is None else judge.compared(source, result, tolerance)
    cost = None
    if costs:
        counts = {"before": source, "after": result}
        cost = Cost(
            inputs={name: list(array.shape) for name, array in feeds[0].items()},
            flops={when: sum(layer.flops for layer in layers(path, feeds[0])) for when, path in counts.items()},
            latency_ms={"before": before, "after": latency(session, feeds[0])},
        )
    return Deviation(kind, held.count, "", [o.facts() for o in outputs], judged), cost


def _unverified(reason: str, tolerance: float | None) -> Deviation:
    if tolerance is not None:
        raise NotVerified(f"the tolerance cannot be checked: {reason}")
    return Deviation("none", reason=reason)

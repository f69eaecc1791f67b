"""The choice of what becomes of each weight: those that the loss decides on share one budget."""

from __future__ import annotations

from onnxprune.allocation.measurement import Measured, Measurements
from onnxprune.allocation.rate_distortion import LOSS, allocate
from onnxprune.encodings.candidates import HALF, Choice
from onnxprune.quantization.error_feedback import Feedback

_UNSEEN = 64.0  # times, at the most


def choose(measurements: Measurements, loss: float) -> dict[str, Choice]:
    """What becomes of each weight, by name, in the order of the measurements.

    Args:
        measurements: of the model.
        loss: the sum over the weights of squared error over energy. What the weights have lost before counts, but for
            those that were changed since.
    """
    choices = {
        name: Choice(HALF if measured.halved and loss > 0 else measured.values, feedback=measured.feedback)
        for name, measured in measurements.weights.items()
    }
    for changed, ways in enumerate(measurements.ways):
        budget = loss if changed else max(0.0, loss - measurements.spent)
        curved = {n: m for n, m in measurements.weights.items() if m.curve and m.changed == bool(changed)}
        numbers = {name: number for number, name in enumerate(curved)}
        points = allocate(
            [measured.curve for measured in curved.values()],
            budget,
            [_counted(measured, loss) for measured in curved.values()],
            [[numbers[name] for name in way] for way in ways],
            measurements.nbytes,
        )
        for (name, measured), chosen in zip(curved.items(), points, strict=True):
            choice: Choice | None = None
            for point in measured.curve[: measured.curve.index(chosen) + 1]:
                for feedback in _feedbacks(measured):
                    choice = Choice(
                        point.values, point.codebook, point.scale, measurements.prune, feedback, point.folded,
                        point.kept, point.loss, choice,
                    )  # fmt: skip
            assert choice is not None
            choices[name] = choice
    return choices


def spent(measurements: Measurements, choices: dict[str, Choice], loss: float) -> float:
    """What the weights lose of a loss at the most: 0 where all are kept, less than it where no inputs were known.

    Args:
        measurements: of the model.
        choices: see `choose`.
        loss: see `choose`.
    """
    lossy = (
        measurements.weights[name]
        for name, choice in choices.items()
        if choice.planned is not None and not choice.plain and choice.values != HALF
    )
    return max((loss / _counts_unseen(loss) if measured.unseen else loss for measured in lossy), default=0.0)


def _feedbacks(measured: Measured) -> list[Feedback | None]:
    """How the errors of a weight are passed on, the last way first: none where assumed inputs cost it too much."""
    feedback = measured.feedback
    return [None, feedback] if feedback is not None and feedback.moments is None else [feedback]


def _counted(measured: Measured, loss: float) -> float:
    """What a unit of a weight's loss counts: where its inputs are unknown it loses as without data."""
    return measured.noise * (_counts_unseen(loss) if measured.unseen else 1.0)


def _counts_unseen(loss: float) -> float:
    return min(max(loss / LOSS, 1.0), _UNSEEN)

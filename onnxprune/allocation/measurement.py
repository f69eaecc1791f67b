"""What is known of a model's weights before a loss is chosen: measured once, good for every loss and every copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxprune.allocation.grids import block_grids, whole_grid
from onnxprune.allocation.noise_counts import noise_counts
from onnxprune.allocation.rate_distortion import SCALES_COST, RatePoint, curve, points, watched
from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import FLOATS, QUANTISED, Array
from onnxprune.encodings.candidates import (
    EXACT,
    HALF,
    INT8,
    MIN_HALF_ELEMENTS,
    Candidate,
    Candidates,
    CodingKey,
    encodable,
    may_lose,
)
from onnxprune.encodings.graph.fusion import readers_of
from onnxprune.encodings.smallest import HALF_NODES, TOO_LARGE, Encoder, decodes_once
from onnxprune.encodings.targets import Targets, kernel_since
from onnxprune.encodings.values.base import Values
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.rounding import gridded, whole
from onnxprune.encodings.values.scales import centred, inner_axes, live_channels, unit_scale
from onnxprune.encodings.values.shared import Shared
from onnxprune.model.model import Model
from onnxprune.model.weight import SMALL, Weight, ways
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.per_weight import PerWeight
from onnxprune.pipeline.progress import Progress, silent, tracked
from onnxprune.pruning.scores import largest
from onnxprune.quantization.channel_scales import extreme
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.histogram import Histogram

_WATCHED = 8  # of the heaviest channels of a weight and of the lightest, whose loss counts beside the mean
_TABLE = tuple((levels, 0.0) for levels in (4, 6, 9, 16, 40))  # of words that a codebook has as a whole
_FINE = ((256, 1.0),)  # tried off the grid of int8 too: outliers leave too few levels on it
_FASTER = 2.0  # times the loss of such a codebook, up to which a grid that a kernel reads takes its place
_HALF_LOSS = 2**-24 / 3  # of float16: an error of at most 2**-12 of each value, evenly spread
_HALF_LEAST, _HALF_MOST = 2**-14, 65504  # values of which float16 keeps 11 bits
_SPARSE = 0.5  # share of zeros in a table from which forms that skip them are tried too: half of it packed by rows
_BOOK_COUNTS = 1 << 14  # entries up to which a codebook for codes of a byte is worth avoiding by a grid
_HELD_BYTES = 1 << 26  # of lossless forms that are kept from measuring to storing; the others are made twice


Ways = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Asked:
    """What the options ask of a weight.

    Attributes:
        values: a form; None leaves it to the loss.
        named: whether they name the weight, or a pattern that matches it.
    """

    values: Values | None = EXACT
    named: bool = False


@dataclass(frozen=True)
class MeasurementPlan:
    """What is measured, and for whom.

    Attributes:
        asked: what the options ask of each weight, in the order of `find`.
        encoder: who will store the weights.
        prune: whether what is left to the loss may become 0.
        calibration: samples; None: errors are not fed back, and all noise counts alike.
        importance: what a unit of a weight's loss counts, in place of how far noise reaches.
    """

    asked: Sequence[Asked]
    encoder: Encoder
    prune: bool = True
    calibration: CalibrationSet | None = None
    importance: PerWeight[float] = field(default_factory=PerWeight)


@dataclass(frozen=True)
class Measured:
    """What is known of one weight.

    Attributes:
        values: the form that it gets where no loss decides.
        asked: the form that was asked for, where the weight gets another one, or no kernel reads this one.
        refused: why.
        halved: whether any loss above 0 makes it float16.
        curve: its rate and distortion; empty where no loss decides.
        changed: whether it was changed since it was coded: what had been spent on it is lost.
        noise: what a unit of its loss counts.
        unseen: whether its inputs are not known though there is data: its loss is that of the weight, and the plan's
            that of outputs.
        feedback: how its rounding errors are passed on: by measured inputs, or by assumed ones.
        lossless: see `Candidates.lossless`; None where that has to be looked for again.
        coded: see `Candidates`.
        matrix: see `Candidates`; None where it was not looked at.
    """

    values: Values = EXACT
    asked: Values | None = None
    refused: str = ""
    halved: bool = False
    curve: tuple[RatePoint, ...] = ()
    changed: bool = False
    noise: float = 1.0
    unseen: bool = False
    feedback: Feedback | None = None
    lossless: tuple[Candidate, ...] | None = None
    coded: dict[CodingKey, Candidate] = field(default_factory=dict, compare=False)
    matrix: bool | None = None


@dataclass(frozen=True)
class Measurements:
    """What is known of a model's weights whatever the loss; it refers to no copy of the model.

    Attributes:
        weights: by name, in the order of `find`.
        ways: the names of weights with a curve whose losses add up, see `weight.ways`: first among those that are as
            they were coded (or never were), then among those that changed since.
        spent: what the weights had lost before.
        nbytes: of the model's file with every weight as it is.
        prune: whether what is left to the loss may become 0.
        change: what measuring did to the model: it may have raised the opset.
    """

    weights: dict[str, Measured]
    ways: tuple[Ways, Ways]
    spent: float
    nbytes: int
    prune: bool
    change: Change


def measure(
    model: Model, weights: Sequence[Weight], plan: MeasurementPlan, change: Change, progress: Progress = silent
) -> Measurements:
    """Measure what does not depend on the loss.

    Args:
        model: the model, in the opset that the forms want.
        weights: all of them, in the order of `find`.
        plan: what is measured.
        change: what was done to the model for it.
        progress: hears of the bytes of the weights.

    Raises:
        WeightError: a weight that the loss decides on holds NaN or Inf.
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run.
    """
    found: list[Measured] = []
    held = 0
    for number, weight in tracked(progress, "measure", weights, lambda weight: weight.nbytes(model)):
        measured = _measured(model, weight, plan.asked[number], plan)
        nbytes = sum(form.nbytes for form in measured.lossless or ())
        if measured.lossless and held + nbytes <= _HELD_BYTES:
            held += nbytes
            measured = replace(measured, lossless=tuple(form.held() for form in measured.lossless))
        elif measured.lossless:
            measured = replace(measured, lossless=None)
        found.append(measured)
    dynamic = [number for number, measured in enumerate(found) if isinstance(measured.values, Int8Dynamic)]
    for number, refused in zip(dynamic, _refusals(model, [weights[n] for n in dynamic], plan), strict=True):
        if refused:
            found[number] = replace(found[number], values=INT8, asked=found[number].values, refused=refused)
    curved = [number for number, measured in enumerate(found) if measured.curve]
    coded = [number for number, measured in enumerate(found) if measured.curve or _has_codebook(measured.values)]
    if plan.calibration is not None and coded:
        _fit(model, {n: weights[n] for n in coded}, found, plan, plan.calibration)
    if plan.calibration is None and curved:
        from onnxprune.allocation.synthetic_feedback import synthetic_feedback  # which runs the model

        for number, feedback in zip(curved, synthetic_feedback(model, [weights[n] for n in curved]), strict=True):
            found[number] = replace(found[number], feedback=feedback)
    unfed = [(passed := found[n].feedback) is None or passed.moments is None for n in curved]
    counts = noise_counts(
        model, [weights[n] for n in curved], unfed, plan.calibration, plan.importance, plan.encoder.tables
    )
    for number, noise, alone in zip(curved, counts, unfed, strict=True):
        found[number] = replace(found[number], noise=noise, unseen=alone and plan.calibration is not None)
    together = [_named_ways([weights[n] for n in curved if found[n].changed == changed]) for changed in (False, True)]
    return Measurements(
        {weight.name: measured for weight, measured in zip(weights, found, strict=True)},
        (together[0], together[1]), model.spent, model.proto.ByteSize() + model.payloads.nbytes, plan.prune, change,
    )  # fmt: skip


def _measured(model: Model, weight: Weight, asked: Asked, plan: MeasurementPlan) -> Measured:
    """What is known of a weight by itself."""
    if not encodable(weight, MIN_HALF_ELEMENTS):
        return Measured()
    form = asked.values
    if not may_lose(weight):
        if form is None:
            small = weight.kind in ("bias", "norm") and weight.element in FLOATS and plan.encoder.targets.half_biases
            return Measured(halved=small and _halvable(weight.chunked(model), added=weight.kind == "bias"))
        return Measured(form if asked.named and form == HALF and form.fits(weight.element) else EXACT)
    if weight.size < SMALL:
        return Measured()
    encoder = plan.encoder
    candidates = _candidates(model, weight, form, encoder)
    if form is not None:
        fits = form.fits(weight.element) or (isinstance(form, Shared) and weight.element in QUANTISED)
        return _as_asked(candidates, form, encoder.targets) if fits else Measured()
    if candidates.opset < Shared().opset(fused=False):
        return Measured()
    line = _curve(candidates, plan)
    model.payloads.forget_pages()
    changed = bool(line) and weight.name in model.codings and not candidates.lossless
    return Measured(curve=tuple(line), changed=changed, lossless=candidates.lossless, matrix=candidates.matrix)


def _as_asked(candidates: Candidates, form: Values, targets: Targets) -> Measured:
    """A form that was asked for, or the integers of a codebook where ONNX Runtime would not keep the floats of it."""
    read = form.stored and readers_of(candidates.weight) is not None
    if read and targets.integers - {Int8Dynamic.name} and form.name not in targets.integers:
        lacking = f"{', '.join(targets.names)} has no fast kernel for {form}"
        hint = f"--target 'onnxruntime>={kernel_since(form.name)}' has one"
        return Measured(form, asked=form, refused=f"{lacking}; {hint}")
    if isinstance(form, Shared) and candidates.weight.element in FLOATS and not decodes_once(candidates.weight):
        readers = candidates.readers()
        if readers is not None and not readers.others:
            return Measured(Int8(form.bits, form.excess), asked=form, refused=TOO_LARGE)
    return Measured(form)


def _curve(candidates: Candidates, plan: MeasurementPlan) -> list[RatePoint]:
    """What a weight costs at each loss; nothing where no codebook fits its values."""
    weight, array, prune = candidates.weight, candidates.array, plan.prune
    fitted, shared = partial(points, planes=plan.encoder.in_planes(candidates)), Shared()
    may_hold = partial(plan.encoder.may_hold, candidates)
    sizes = [plan.encoder.estimate(candidates, form) for form in candidates.lossless]
    exact = min([weight.nbytes(candidates.model), *sizes])
    if weight.element in QUANTISED:
        array = centred(weight, array)
        one = np.ones((1,) * array.ndim, np.float32)
        return curve(exact, fitted(Histogram.of(array, one), array.size, one, prune, partial(whole, prune=prune)))
    wide = candidates.wide
    if wide is None:
        if weight.reason is None and prune:
            largest(weight, candidates.model)  # refuses NaN and Inf: finite values far from ordinary sizes stay exact
        return []
    readers = candidates.readers()
    transposed = readers.transposed if readers else None
    wide, scale = live_channels(weight, wide, transposed)
    halves = HALF.fits(weight.element) and may_hold(HALF)
    found = [RatePoint(2 * wide.size + HALF_NODES, _HALF_LOSS, values=HALF)] if halves else []
    if scale is None:
        unit = unit_scale(wide)
        found += fitted(Histogram.of(wide, unit), wide.size, unit, prune) if may_hold(shared) else []
        return curve(exact, found)
    histogram = Histogram.of(wide, scale)
    if candidates.gathers:
        found += fitted(histogram, wide.size, scale, prune, grid=_TABLE, row=wide.row)
        found.append(whole_grid(wide, scale, (1,), watched=False))
        if histogram.zeros <= _SPARSE * wide.size:
            return curve(exact, found)
    fused, folded = readers is not None, may_hold(shared, scaled=True)
    axes = inner_axes(weight, transposed)
    worst = None if candidates.gathers else extreme(wide, scale, axes, _WATCHED)
    least = np.inf
    if fused and may_hold(INT8, fused):
        found += fitted(histogram, wide.size, scale, prune, lambda levels: gridded(levels, prune)[0])
        blocked = block_grids(candidates, wide, scale)
        found, least = found + blocked, min((point.loss for point in blocked), default=least)
    if folded and fused:
        fine = fitted(histogram, wide.size, scale, prune, grid=_FINE, folded=True)
        found += [p for p in fine if worst is None or _FASTER * watched(p, worst, prune).loss < least]
    elif folded:
        found += fitted(histogram, wide.size, scale, prune)
    if not fused and may_hold(shared) and scale.nbytes > SCALES_COST * exact:
        unit = unit_scale(wide)
        histogram = Histogram.of(wide, unit, np.square(unit / scale.astype(np.float64)))
        found += fitted(histogram, wide.size, unit, prune)
    small = wide.size <= _BOOK_COUNTS or not (fused or folded)  # or nothing but a grid is read of it
    if not candidates.gathers and small and may_hold(INT8, fused, not fused):
        found.append(whole_grid(wide, scale, axes))
    return curve(exact, found, worst, prune)


def _refusals(model: Model, weights: Sequence[Weight], plan: MeasurementPlan) -> list[str]:
    """Why each of the weights may not be int8-dynamic, or ""."""
    if not weights:
        return []
    calibration = plan.calibration
    assert calibration is not None  # the pass refuses int8-dynamic without data
    from onnxprune.allocation.activation_rounding import refusals  # which runs models, as all that takes data does

    integers = plan.encoder.integers
    return refusals(model, weights, integers, calibration)


def _fit(
    model: Model, weights: dict[int, Weight], found: list[Measured], plan: MeasurementPlan, calibration: CalibrationSet
) -> None:
    """Measure the inputs of weights on the samples: how errors are passed on, and what outputs lose."""
    from onnxprune.allocation.output_curve import output_curve
    from onnxprune.calibration.layers import layer_of
    from onnxprune.calibration.moments import moments

    layers = [layer_of(weight, {}) for weight in weights.values()]
    known = [None if layer is None or layer.in_axes != layer.weight.in_axes else layer for layer in layers]
    measured = moments(model, known, calibration)
    for number in reversed(weights):
        halves = measured.pop()  # as large as what is made of it
        if halves is None:
            continue
        feedback, line = Feedback.of(halves), found[number].curve
        if line:
            candidates = _candidates(model, weights[number], None, plan.encoder)
            line = tuple(
                output_curve(line, candidates, halves, feedback, plan.prune, plan.encoder.in_planes(candidates))
            )
            model.payloads.forget_pages()
        found[number] = replace(found[number], feedback=feedback, curve=line)


def _candidates(model: Model, weight: Weight, asked: Values | None, encoder: Encoder) -> Candidates:
    return Candidates(model, weight, integers=encoder.integers_of(weight, asked), tables=encoder.tables)


def _named_ways(weights: Sequence[Weight]) -> Ways:
    return tuple(tuple(weights[number].name for number in way) for way in ways(weights))


def _halvable(chunked: ChunkedArray, added: bool) -> bool:
    """Whether float16 keeps a float32 tensor: 11 bits of every value.

    Of values that are `added`, those below 2**-14 may be off by 2**-25 where others are off by as much. A variance may
    not: it is divided by.
    """

    def held(_: RowRange, part: Array) -> tuple[bool, bool, float]:
        size = np.abs(part[part != 0])
        fits = bool(np.isfinite(part).all()) and (not size.size or bool(size.max() <= _HALF_MOST))
        return fits, not size.size or bool(size.min() >= _HALF_LEAST), float(np.square(size, dtype=np.float64).sum())

    if chunked.dtype != np.float32:
        return False
    fits, exact, energy = zip(*chunked.each(held), strict=True)
    return all(fits) and (all(exact) or (added and sum(energy) >= (2 * _HALF_LEAST) ** 2 * chunked.size))


def _has_codebook(values: Values) -> bool:
    return isinstance(values, Shared) or (isinstance(values, Int8) and values.bits < 8)

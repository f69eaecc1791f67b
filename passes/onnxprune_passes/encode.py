"""encode: each weight in the smallest of the encodings, decoded by standard operators when the model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from onnxprune import rate
from onnxprune.dtypes import FLOATS, QUANTISED, Array
from onnxprune.encodings import GRAPH, Coded, Encoding, Sparse, Values, form_of
from onnxprune.encodings.fusion import Readers, readers_of
from onnxprune.encodings.graft import (
    Graft,
    fresh_ids,
    in_function,
    loose_weights,
    opset_of,
    plant,
    plant_sparse,
    planted_in,
    prepare,
)
from onnxprune.encodings.values import (
    DEQUANTISE_AXIS,
    INT4,
    Exact,
    Int4,
    Int8,
    Shared,
    centred,
    channel_scale,
    computed,
    gridded,
    on_grid,
    recoded,
    unit_scale,
    whole,
    with_book,
)
from onnxprune.entropy import EXCESS
from onnxprune.errors import OptionError, WeightError
from onnxprune.feedback import Feedback
from onnxprune.gains import gains
from onnxprune.model import Model
from onnxprune.moments import moments
from onnxprune.opset import raise_to
from onnxprune.pipeline import Change, Encoded, Pass, Progress, silent, tracked
from onnxprune.recall import keeps, recall
from onnxprune.slabs import Rows, Slabs
from onnxprune.weights import SMALL, Weight, check_patterns, matches, ways

SPARSE_INITIALIZER = (11, 5)  # the opset and IR version that brought it
_EXACT = Exact()
_AUTO = "auto"
_ROWS_MORE, _ROWS_FROM = 1.2, 1 << 20  # rows load in half the time: worth a fifth of a large matrix
_SCALES_COST = 0.004  # share of the dense bytes from which a weight is tried without scales too
_TRUSTED = 8.0  # how far apart gains may move weights: few samples, and outputs that saturate, tell half the truth
_GAIN_SAMPLES = 4  # each costs a run per weight
_LEAST = 64  # elements below which half precision saves less than its Cast takes
_NODES_DIFFER = 1024  # bytes by which the nodes of two forms differ at the most


@dataclass(frozen=True)
class _Choice:
    """What becomes of a weight: a form, or the point that rate and distortion chose; and how errors are passed on."""

    values: Values = _EXACT
    point: rate.Point | None = None
    feedback: Feedback | None = None

    @property
    def plain(self) -> bool:
        """Whether it keeps the values."""
        return self.values == _EXACT and self.point is None


@dataclass(frozen=True, kw_only=True)
class Encode(Pass):
    """Per tensor the encoding with the fewest measured bytes wins, dense included.

    Options:
        encoding: auto, graph (self-decoding forms only), coo, dense, or the name of one form.
        values: exact, half (float16), shared:BITS (k-means), int8, int8:BITS, int4, or auto: per weight
            the fewest bytes within the loss.
        set: "PATTERN=VALUES", a glob on the weight's name; the last match counts.
        skip: globs of weights that keep exact values.
        loss: for auto, the sum over the weights of squared error over energy.
        keep_zeros: for auto, whether only what is 0 becomes 0.
        data: an .npz file or a folder (see `data.load`): books are rounded with error feedback on what the layers
            read, and for auto the noise of each weight counts by the root of what reaches the outputs, against the
            usual weight, and by what feedback leaves of it.
        importance: for auto, "PATTERN=NUMBER": what a unit of a weight's loss counts, in place of what reaches the
            outputs; the last match counts, and a weight that none matches counts 1.
        samples: at most so many samples of the data.
        half: only samples of the first half that `data.cut` makes: the second is held out.
        prefer: speed (forms that load fast) or size: never more bytes for that, and the books of shared and int8:BITS
            are those whose codes `pack` makes smaller, for at most a fifth more squared error.
    """

    name = "encode"
    encoding: str = "auto"
    values: str = "exact"
    set: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    loss: float = rate.LOSS
    keep_zeros: bool = False
    data: str = ""
    importance: tuple[str, ...] = ()
    samples: int = 64
    half: bool = False
    prefer: str = "speed"

    def __post_init__(self) -> None:
        """Check the options."""
        choices = ("auto", "graph", "coo", *GRAPH)
        if self.encoding not in choices:
            raise OptionError(f"encoding '{self.encoding}' is not one of {', '.join(choices)}")
        if self.prefer not in ("speed", "size"):
            raise OptionError(f"prefer '{self.prefer}' is not speed or size")
        if not np.isfinite(self.loss) or self.loss < 0:
            raise OptionError(f"loss must be a number from 0 up, not {self.loss}")
        for spec in (self.values, *(_split(entry)[1] for entry in self.set)):
            if spec != _AUTO:
                form_of(spec)
        for entry in self.importance:
            _number(entry)

    def run(self, model: Model, progress: Progress = silent) -> Change:
        """See `Pass.run`."""
        change = Change()
        for group in planted_in(model):
            change.weights[group.name] = {"encoding": group.encoding, "bytes_after": group.nbytes(model)}
        weights = loose_weights(model)
        self._raise_opset(model, weights, change)
        ids = fresh_ids(model)
        check_patterns(weights, (*(_split(entry)[0] for entry in self.set), *self.skip))
        choices = self._choose(model, weights, progress)
        for number, weight in tracked(progress, self.name, weights, lambda weight: weight.nbytes(model)):
            self._encode(model, weight, choices[number], ids, change)
        inputs = sum(weight.overridable for weight in weights)
        if inputs:
            change.notes.append(
                f"{inputs} tensors stay dense: they are graph inputs, whose values a caller may override; "
                "take them out of the inputs to have them encoded"
            )
        return change

    # what becomes of each weight -----------------------------------------------------------------------

    def _spec(self, weight: Weight) -> str:
        """The values that the options name for a weight."""
        if any(matches(weight.name, pattern) for pattern in self.skip):
            return "exact"
        spec = self.values
        for entry in self.set:
            pattern, values = _split(entry)
            if matches(weight.name, pattern):
                spec = values
        return spec

    def _choose(self, model: Model, weights: list[Weight], progress: Progress) -> list[_Choice]:
        """A choice for each weight; those left to rate and distortion share one budget."""
        choices = [_Choice() for _ in weights]
        key = (
            str(replace(self, loss=0.0)),
            _fingerprint(model, weights) if keeps() else "",
        )  # of what does not depend on the loss
        curves: dict[int, list[rate.Point]] = {}
        for number, weight in tracked(progress, "measure", weights, lambda weight: weight.nbytes(model)):
            if not _encodable(weight, _LEAST):
                continue
            spec = self._spec(weight)
            if not _lossy(weight):
                small = weight.kind in ("bias", "norm") and weight.element in FLOATS
                named = any(matches(weight.name, _split(entry)[0]) for entry in self.set)
                if small and spec == _AUTO and self.loss > 0 and _halvable(weight.slabs(model)):
                    choices[number] = _Choice(form_of("half"))
                elif named and spec == "half" and form_of(spec).fits(weight.element):
                    choices[number] = _Choice(form_of(spec))
            elif weight.size < SMALL:
                continue
            elif spec != _AUTO:
                form = form_of(spec, EXCESS if self.prefer == "size" else 0.0)
                fits = form.fits(weight.element) or (isinstance(form, Shared) and weight.element in QUANTISED)
                choices[number] = _Choice(form if fits else _EXACT)
            elif opset_of(model, weight.scope) >= form_of("shared").opset(fused=False):
                line = recall((key, number), partial(self._curve, model, weight))
                if line:
                    curves[number] = line
                model.payloads.forget_pages()
        fed = {n: weights[n] for n in range(len(weights)) if n in curves or _has_book(choices[n])}
        feedbacks = recall((key, "feedbacks"), partial(self._feedbacks, model, fed))
        measured = [weights[n] for n in curves]
        left = [feedbacks.get(n) for n in curves]
        noise = recall((key, "noise"), partial(self._noise, model, measured, left))
        points = rate.allocate(list(curves.values()), self.loss, noise, ways(measured))
        for number, point in zip(curves, points, strict=True):
            choices[number] = _Choice(_EXACT, point if point.book is not None else None)
        return [replace(choice, feedback=feedbacks.get(number)) for number, choice in enumerate(choices)]

    def _feedbacks(self, model: Model, weights: dict[int, Weight]) -> dict[int, Feedback]:
        """How errors are passed on in the weights whose inputs were measured on the data."""
        if not self.data or not weights:
            return {}
        measured = moments(model, list(weights.values()), Path(self.data), self.samples, self._half)
        found = {}
        for number in reversed(weights):
            held = measured.pop()  # as large as what is made of it
            if held is not None:
                found[number] = Feedback.of(held)
        return found

    def _noise(self, model: Model, weights: list[Weight], feedbacks: list[Feedback | None]) -> list[float]:
        """What the noise of each weight does to the outputs, against the usual weight."""
        counted: list[float] = [1.0] * len(weights)
        if self.importance:
            for pattern, number in map(_number, self.importance):
                counted = [number if matches(w.name, pattern) else c for w, c in zip(weights, counted, strict=True)]
        elif self.data and weights:
            measured = [gain or None for gain in gains(model, weights, Path(self.data), _GAIN_SAMPLES, self._half)]
            known = [gain for gain in measured if gain is not None]
            usual = float(np.exp(np.mean(np.log(known)))) if known else 1.0
            counted = [
                1.0 if g is None else float(np.clip(np.sqrt(g / usual), 1 / _TRUSTED, _TRUSTED)) for g in measured
            ]
        left = [1.0 if feedback is None else feedback.remaining for feedback in feedbacks]
        return [count * rest for count, rest in zip(counted, left, strict=True)]

    @property
    def _half(self) -> int | None:
        return 0 if self.half else None

    def _curve(self, model: Model, weight: Weight) -> list[rate.Point]:
        prune = not self.keep_zeros
        if weight.element in QUANTISED:
            array = centred(weight, weight.slabs(model))
            one = np.ones((1,) * array.ndim, np.float32)
            return rate.curve(array, one, weight.nbytes(model), prune, partial(whole, prune=prune))
        wide = computed(weight.slabs(model))
        if wide is None:
            if weight.reason is None and not self.keep_zeros:
                raise WeightError(f"weight '{weight.name}' holds NaN or Inf: it cannot be pruned by magnitude")
            return []
        readers = self._readers(model, weight, DEQUANTISE_AXIS)
        scale, unit = channel_scale(weight, wide, readers.transposed if readers else None), unit_scale(wide)
        exact = weight.nbytes(model)
        if scale is None:
            return rate.curve(wide, unit, exact, prune)
        snap = (lambda levels: gridded(levels, prune)[0]) if readers is not None else None
        points = rate.curve(wide, scale, exact, prune, snap)
        if readers is None and scale.nbytes > _SCALES_COST * exact:
            importance = np.square(unit / scale.astype(np.float64))
            points = rate.hull(points + rate.curve(wide, unit, exact, prune, importance=importance))
        return points

    def _readers(self, model: Model, weight: Weight, opset: int) -> Readers | None:
        return readers_of(weight) if opset_of(model, weight.scope) >= opset else None

    def _code(self, model: Model, weight: Weight, array: Slabs, choice: _Choice) -> tuple[Coded | None, Readers | None]:
        """The weight in the chosen form, and who reads its integers."""
        point, form = choice.point, choice.values
        if point is not None:
            assert point.book is not None
            assert point.scale is not None
            if weight.element in QUANTISED:
                return recoded(weight, array, point.book, not self.keep_zeros, choice.feedback), None
            wide = computed(array)
            assert wide is not None
            readers = self._readers(model, weight, DEQUANTISE_AXIS) if point.scale.size > 1 else None
            if readers is not None:
                return on_grid(
                    weight, wide, point.scale, point.book, not self.keep_zeros, readers.transposed, choice.feedback
                ), readers
            return with_book(weight, wide, point.scale, point.book, not self.keep_zeros, choice.feedback), None
        if opset_of(model, weight.scope) < form.opset(fused=False):
            return None, None
        readers = None
        if form.opset(fused=True) > form.opset(fused=False):
            readers = self._readers(model, weight, form.opset(fused=True))
        coded: Coded | None
        if weight.element in QUANTISED and isinstance(form, Shared):
            return form.recode(weight, array, choice.feedback), None
        coded = form.code(weight, array, readers.transposed if readers else None, choice.feedback)
        if readers and readers.others and coded and coded.block and coded.carrier.shape[0] % coded.block:
            readers, coded = None, form.code(weight, array, None, choice.feedback)
        return coded, readers

    # the opset ---------------------------------------------------------------------------------------------

    def _raise_opset(self, model: Model, weights: list[Weight], change: Change) -> None:
        """Raise the model as far as the forms want, where that is proven harmless; else the next best form."""
        wanted = sorted({v for v in self._wanted(model, weights) if v > model.opset}, reverse=True)
        before, refusal = model.opset, ""
        for version in wanted:
            refusal = raise_to(model, version)
            if not refusal:
                change.modified = True
                change.notes.append(f"the opset was raised from {before} to {version}, and the outputs stayed the same")
                return
        if refusal:
            change.notes.append(f"the opset stays at {before}: {refusal}")

    def _wanted(self, model: Model, weights: list[Weight]) -> Iterator[int]:
        """Opsets above the model's at which some weight gets a better form."""
        if model.opset >= INT4:
            return
        gaps = GRAPH["flat"].opset
        for weight in weights:
            if not _encodable(weight):
                continue
            spec = self._spec(weight) if _lossy(weight) else "exact"
            form = None if spec == _AUTO else form_of(spec)
            if isinstance(form, Int4) and readers_of(weight):
                yield INT4
            if (form is None or form.opset(fused=True) >= DEQUANTISE_AXIS) and readers_of(weight):
                yield DEQUANTISE_AXIS
            if form is None or form.opset(fused=False) > model.opset:
                yield gaps
            elif model.opset < gaps and self.encoding not in ("coo", "dense", "bitmask"):
                sparse = Sparse.of(weight.slabs(model), weight.zero_value)
                if GRAPH["flat"].payload(sparse) < min(GRAPH[n].payload(sparse) for n in ("bitmask", "dense")):
                    yield gaps

    # the encoding ------------------------------------------------------------------------------------------

    def _encode(self, model: Model, weight: Weight, choice: _Choice, ids: Iterator[str], change: Change) -> None:
        before = weight.nbytes(model)
        record = {"encoding": "coo" if weight.store == "sparse" else "dense", "bytes_after": before}
        change.weights[weight.name] = record
        if weight.overridable:
            change.skipped[weight.name] = "stays dense: it is a graph input that a caller may override"
            return
        if weight.scope.shadows(weight.value):
            change.skipped[weight.name] = "stays dense: another body binds its name too, which no node may write"
            return
        if weight.zero_value.ndim:
            change.skipped[weight.name] = "stays dense: its channels have different zero points"
            return
        if not _encodable(weight, SMALL if choice.plain else _LEAST):
            return
        array = weight.slabs(model)
        best, lossless = None, True
        if not choice.plain:
            coded, readers = self._code(model, weight, array, choice)
            if coded is not None:
                best = self._best(model, weight, coded, choice, readers, next(ids), before)
            lossless = best is None
            if best is None and choice.point is None and self._spec(weight) != _AUTO:
                why = "cannot hold it" if coded is None else "gains nothing"
                change.notes.append(f"'{weight.name}' keeps exact values: {choice.values} {why}")
        if best is None:
            exact = Coded(array, weight.zero_value)
            best = self._best(model, weight, exact, _Choice(), None, next(ids), before)
        limit = best.nbytes if best else before
        if lossless and self._plant_coo(model, weight, array, limit):
            if best:
                best.discard(model)
            record.update(encoding="coo", bytes_after=weight.nbytes(model))
        elif best:
            plant(model, weight, best)
            record.update(encoding=best.encoding, bytes_after=best.nbytes)
            change.encoded[weight.name] = Encoded(weight.shape, best.sparse.zeros())
        else:
            if weight.reason and self.values == _AUTO and not self.keep_zeros:
                change.skipped[weight.name] = weight.reason
            return
        change.modified = True
        model.payloads.forget_pages()

    def _forms(self, model: Model, weight: Weight, coded: Coded) -> list[Encoding]:
        if self.encoding == "coo":
            return []
        named = [GRAPH[self.encoding]] if self.encoding in GRAPH else list(GRAPH.values())
        opset = opset_of(model, weight.scope)
        trivial = coded.book is None and coded.decoded == weight.zero_value.dtype and coded.scale is None
        inside = in_function(weight.scope)
        return [
            form
            for form in named
            if form.opset <= opset and not (form.name == "dense" and trivial) and not (form.declares and inside)
        ]

    def _best(
        self,
        model: Model,
        weight: Weight,
        coded: Coded,
        choice: _Choice,
        readers: Readers | None,
        name: str,
        limit: int,
    ) -> Graft | None:
        """The smallest graft below `limit` bytes: only forms whose packed arrays come close are packed."""
        sparse = Sparse.of(coded.carrier, coded.fill, coded.book)
        payloads: dict[str, int] = {}
        for form in sorted(self._forms(model, weight, coded), key=lambda form: form.least(sparse)):
            bound = min([limit, *payloads.values()]) + _NODES_DIFFER
            if form.least(sparse) < bound:
                payloads[form.name] = form.payload(sparse)
        if not payloads:
            return None
        least = min(payloads.values())
        if self.prefer == "speed" and self._rows_instead(sparse, payloads, least):
            least = payloads["rows"]
            payloads = {"rows": least}
        values = choice.values
        if choice.point is not None:
            values = form_of("int8" if coded.fused else "shared")
        best: Graft | None = None
        for encoding, payload in payloads.items():
            if payload >= min(limit, least + _NODES_DIFFER):
                continue
            graft = prepare(model, weight, coded, sparse, GRAPH[encoding], values, name, readers)
            if graft.nbytes < (best.nbytes if best else limit):
                if best:
                    best.discard(model)
                best = graft
            else:
                graft.discard(model)
        return best

    @staticmethod
    def _rows_instead(sparse: Sparse, payloads: dict[str, int], least: int) -> bool:
        """Whether rows, which load faster than one flat run, are worth the bytes that they pad."""
        large = len(sparse.shape) == 2 and sparse.size >= _ROWS_FROM
        sparsely = large and sparse.book is not None and sparse.kept < sparse.size / 2
        if sparsely and "rows" not in payloads and ("flat" in payloads or "bitmask" in payloads):
            payloads["rows"] = GRAPH["rows"].payload(sparse)
        return sparsely and "rows" in payloads and payloads["rows"] <= _ROWS_MORE * least

    def _plant_coo(self, model: Model, weight: Weight, array: Slabs, limit: int) -> bool:
        """Make the weight a sparse initializer where one may stand and takes fewer than `limit` bytes."""
        opset, ir_version = SPARSE_INITIALIZER
        allowed = self.encoding in ("auto", "coo") and model.opset >= opset and model.proto.ir_version >= ir_version
        if not allowed or weight.scope.path or weight.store == "constant" or weight.zero is not None:
            return False
        sparse = Sparse.of(array, weight.zero_value)
        if sparse.kept * (8 + array.dtype.itemsize) >= limit:
            return False
        return plant_sparse(model, weight, sparse, limit)


def _fingerprint(model: Model, weights: list[Weight]) -> str:
    """A digest of the values and of what reads them."""
    total = hashlib.sha256()
    for weight in weights:
        total.update(f"{weight.name} {weight.dtype} {weight.shape} {weight.consumers}".encode())
        array = np.ascontiguousarray(weight.array(model))
        total.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
        model.payloads.forget_pages()
    return total.hexdigest()


def _split(entry: str) -> tuple[str, str]:
    """PATTERN and VALUES of an entry of `set`."""
    pattern, equals, values = entry.rpartition("=")
    if not equals or not pattern:
        raise OptionError(f"set '{entry}' must be PATTERN=VALUES")
    return pattern, values


def _number(entry: str) -> tuple[str, float]:
    """PATTERN and NUMBER of an entry of `importance`."""
    pattern, _, text = entry.rpartition("=")
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not pattern or not 0 <= number < np.inf:
        raise OptionError(f"importance '{entry}' must be PATTERN=NUMBER, the number from 0 up")
    return pattern, number


def _encodable(weight: Weight, least: int = SMALL) -> bool:
    """Whether the weight may be something else than a plain dense tensor."""
    if weight.size < least or weight.overridable or weight.element not in FLOATS | QUANTISED:
        return False
    return not weight.zero_value.ndim and not weight.scope.shadows(weight.value)


def _halvable(slabs: Slabs) -> bool:
    """Whether float16 keeps 11 bits of every value of a float32 tensor."""

    def held(_: Rows, part: Array) -> bool:
        size = np.abs(part[part != 0])
        return bool(np.isfinite(part).all()) and (not size.size or (size.min() >= 2**-14 and size.max() <= 65504))

    return slabs.dtype == np.float32 and all(slabs.each(held))


def _has_book(choice: _Choice) -> bool:
    return isinstance(choice.values, Shared) or (isinstance(choice.values, Int8) and choice.values.bits < 8)


def _lossy(weight: Weight) -> bool:
    """Whether the weight may lose precision: linear layers and large tables, not what is added or normalises."""
    return not (weight.kind in ("bias", "norm") or weight.kind.endswith("operand"))

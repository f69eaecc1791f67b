"""encode: each weight in the smallest of the encodings, decoded by standard operators when the model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from onnxprune.allocation import rate_distortion
from onnxprune.allocation.input_moments import moments
from onnxprune.allocation.measured_once import keeps, recall
from onnxprune.allocation.noise_gain import gains
from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import FLOATS, QUANTISED, Array
from onnxprune.encodings import FORMS, GRAPH, Coded, Encoding, Sparse, Values, form_of
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.graph.fusion import Readers, readers_of
from onnxprune.encodings.graph.insert import PreparedWeight, insert, insert_sparse, prepare
from onnxprune.encodings.values.base import DEQUANTISE_AXIS, INT4
from onnxprune.encodings.values.floats import Exact, Half
from onnxprune.encodings.values.integers import Int4, Int8
from onnxprune.encodings.values.lossless import again, few, fuses, halved
from onnxprune.encodings.values.rounding import gridded, on_grid, recoded, whole, with_codebook
from onnxprune.encodings.values.scales import centred, channel_scale, computed, unit_scale
from onnxprune.encodings.values.shared import Shared
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find, in_function, opset_of
from onnxprune.model.encoded_names import fresh_ids
from onnxprune.model.model import Model
from onnxprune.model.weight import SMALL, Weight, check_patterns, matches, ways
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, Encoded
from onnxprune.pipeline.progress import Progress, silent, tracked
from onnxprune.pruning.scores import largest
from onnxprune.quantization.entropy_constrained import EXCESS
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.runtime.opset import raise_to

SPARSE_INITIALIZER = (11, 5)  # the opset and IR version that brought it
_EXACT, _HALF = Exact(), Half()
_AUTO = "auto"
_ROWS_MORE, _ROWS_FROM = 1.2, 1 << 20  # rows load in half the time: worth a fifth of a large matrix
_SCALES_COST = 0.004  # share of the dense bytes from which a weight is tried without scales too
_TRUSTED = 8.0  # how far apart gains may move weights: few samples, and outputs that saturate, tell half the truth
_GAIN_SAMPLES = 4  # each costs a run per weight
_MIN_HALF_ELEMENTS = 64  # elements below which half precision saves less than its Cast takes
_NODES_DIFFER = 1024  # bytes by which the nodes of two forms differ at the most


@dataclass(frozen=True)
class _Choice:
    """What becomes of a weight: a form, or the point that rate and distortion chose; and how errors are passed on."""

    values: Values = _EXACT
    point: rate_distortion.RatePoint | None = None
    feedback: Feedback | None = None

    @property
    def plain(self) -> bool:
        """Whether it keeps the values."""
        return self.values == _EXACT and self.point is None


@dataclass(frozen=True)
class _Form:
    """A weight in a form: what it is called, and who reads its integers."""

    values: Values
    coded: Coded
    readers: Readers | None = None

    def serves(self, wanted: Values) -> bool:
        """Whether it is what a request for a form wants."""
        if self.values.name != wanted.name:
            return False
        codebook = self.coded.codebook
        return (
            not isinstance(wanted, Shared | Int8)
            or wanted.bits == 8
            or (codebook is not None and len(codebook) <= 2**wanted.bits)
        )


@dataclass(frozen=True, kw_only=True)
class Encode(Pass):
    """Per tensor the encoding with the fewest measured bytes wins, dense included.

    Few distinct values, and what a decoded weight was coded in, are kept bit for bit wherever another form would not
    take fewer bytes.

    Options:
        encoding: auto, graph (self-decoding forms only), coo, dense, or the name of one form.
        values: exact, half (float16), shared:BITS (k-means), int8, int8:BITS, int4, or auto: per weight
            the fewest bytes within the loss.
        set: "PATTERN=VALUES", a glob on the weight's name; the last match counts.
        skip: globs of weights that keep exact values.
        loss: for auto, the sum over the weights of squared error over energy. What the weights of a model that was
            encoded before have lost already counts.
        keep_zeros: for auto, whether only what is 0 becomes 0.
        data: an .npz file or a folder (see `samples.load`): codebooks are rounded with error feedback on what the
            layers read, and for auto the noise of each weight counts by the root of what reaches the outputs,
            against the usual weight, and by what feedback leaves of it.
        importance: for auto, "PATTERN=NUMBER": what a unit of a weight's loss counts, in place of what reaches the
            outputs; the last match counts, and a weight that none matches counts 1.
        samples: at most so many samples of the data.
        half: only samples of the first half that `samples.cut` makes: the second is held out.
        prefer: speed (forms that load fast) or size: never more bytes for that, and the codebooks of shared and
            int8:BITS are those whose codes `pack` makes smaller, for at most a fifth more squared error.
    """

    name = "encode"
    encoding: str = "auto"
    values: str = "exact"
    set: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    loss: float = rate_distortion.LOSS
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
        for group in encoded_weights(model):
            change.weights[group.name] = {"encoding": group.encoding, "bytes_after": group.nbytes(model)}
        weights = find(model)
        self._raise_opset(model, weights, change)
        ids = fresh_ids(model.proto)
        name = next(ids)
        check_patterns(weights, (*(_split(entry)[0] for entry in self.set), *self.skip))
        choices = self._choose(model, weights, progress)
        for number, weight in tracked(progress, self.name, weights, lambda weight: weight.nbytes(model)):
            if self._encode(model, weight, choices[number], name, change):
                name = next(ids)
        lossy = any(choice.point is not None for choice in choices)
        if lossy or model.spent:
            rate_distortion.spend(model, self.loss if lossy else 0.0)
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
        """A choice for each weight; those left to rate and distortion share one budget, of which some is spent."""
        choices = [_Choice() for _ in weights]
        key = (
            str(replace(self, loss=0.0)),
            _fingerprint(model, weights) if keeps() else "",
        )  # of what does not depend on the loss
        curves: dict[int, list[rate_distortion.RatePoint]] = {}
        changed: set[int] = set()  # since they were coded: what was spent on them is lost
        for number, weight in tracked(progress, "measure", weights, lambda weight: weight.nbytes(model)):
            if not _encodable(weight, _MIN_HALF_ELEMENTS):
                continue
            spec = self._spec(weight)
            if not _lossy(weight):
                small = weight.kind in ("bias", "norm") and weight.element in FLOATS
                named = any(matches(weight.name, _split(entry)[0]) for entry in self.set)
                if small and spec == _AUTO and self.loss > 0 and _halvable(weight.chunked(model)):
                    choices[number] = _Choice(_HALF)
                elif named and spec == "half" and form_of(spec).fits(weight.element):
                    choices[number] = _Choice(form_of(spec))
            elif weight.size < SMALL:
                continue
            elif spec != _AUTO:
                form = form_of(spec, EXCESS if self.prefer == "size" else 0.0)
                fits = form.fits(weight.element) or (isinstance(form, Shared) and weight.element in QUANTISED)
                choices[number] = _Choice(form if fits else _EXACT)
            elif opset_of(model, weight.scope) >= form_of("shared").opset(fused=False):
                line, kept = recall((key, number), partial(self._curve, model, weight))
                if line:
                    curves[number] = line
                    if weight.name in model.codings and not kept:
                        changed.add(number)
                model.payloads.forget_pages()
        fed = {n: weights[n] for n in range(len(weights)) if n in curves or _has_codebook(choices[n])}
        feedbacks = recall((key, "feedbacks"), partial(self._feedbacks, model, fed))
        measured = [weights[n] for n in curves]
        left = [feedbacks.get(n) for n in curves]
        noise = recall((key, "noise"), partial(self._noise, model, measured, left))
        counts = dict(zip(curves, noise or [1.0] * len(curves), strict=True))
        for budget, numbers in (
            (max(0.0, self.loss - model.spent), [n for n in curves if n not in changed]),
            (self.loss, sorted(changed)),
        ):
            together = ways([weights[n] for n in numbers])
            points = rate_distortion.allocate(
                [curves[n] for n in numbers], budget, [counts[n] for n in numbers], together
            )
            for number, point in zip(numbers, points, strict=True):
                choices[number] = _Choice(_EXACT, point if point.codebook is not None else None)
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

    def _curve(self, model: Model, weight: Weight) -> tuple[list[rate_distortion.RatePoint], bool]:
        """What a weight costs at each loss, and whether it is stored in few bytes without one."""
        prune, array = not self.keep_zeros, weight.chunked(model)
        kept = list(self._lossless(model, weight, array))
        exact = min([weight.nbytes(model), *(self._estimate(model, weight, form) for form in kept)])
        if weight.element in QUANTISED:
            array = centred(weight, array)
            one = np.ones((1,) * array.ndim, np.float32)
            return rate_distortion.curve(array, one, exact, prune, partial(whole, prune=prune)), bool(kept)
        wide = computed(array)
        if wide is None:
            if weight.reason is None and not self.keep_zeros:
                largest(weight, model)  # refuses NaN and Inf: finite values far from ordinary sizes stay exact
            return [], False
        readers = self._readers(model, weight, DEQUANTISE_AXIS)
        scale, unit = channel_scale(weight, wide, readers.transposed if readers else None), unit_scale(wide)
        if scale is None:
            return rate_distortion.curve(wide, unit, exact, prune), bool(kept)
        snap = (lambda levels: gridded(levels, prune)[0]) if readers is not None else None
        points = rate_distortion.curve(wide, scale, exact, prune, snap)
        if readers is None and scale.nbytes > _SCALES_COST * exact:
            importance = np.square(unit / scale.astype(np.float64))
            points = rate_distortion.hull(
                points + rate_distortion.curve(wide, unit, exact, prune, importance=importance)
            )
        return points, bool(kept)

    def _estimate(self, model: Model, weight: Weight, form: _Form) -> int:
        """Bytes of a form, nodes and names included."""
        sparse = Sparse.of(form.coded.carrier, form.coded.fill_value, form.coded.codebook)
        scale = form.coded.scale
        around = rate_distortion.NODES + (scale.nbytes if scale is not None else 0)
        payloads = [encoding.payload(sparse) for encoding in self._forms(model, weight, form.coded)]
        return min(payloads) + around if payloads else weight.nbytes(model)

    def _readers(self, model: Model, weight: Weight, opset: int) -> Readers | None:
        return readers_of(weight) if opset_of(model, weight.scope) >= opset else None

    def _readers_for(self, model: Model, weight: Weight, form: Values) -> Readers | None:
        """Who reads the integers of a form, where it has such."""
        fused = form.opset(fused=True)
        return self._readers(model, weight, fused) if fused > form.opset(fused=False) else None

    def _lossless(self, model: Model, weight: Weight, array: ChunkedArray) -> Iterator[_Form]:
        """The forms that hold every bit of a weight in fewer bytes than its own values take."""
        opset, coding = opset_of(model, weight.scope), model.codings.get(weight.name)
        if coding is not None and coding.form in FORMS:
            form = form_of(coding.form)
            readers = self._readers_for(model, weight, form)
            if readers and not fuses(coding, weight.shape, readers.transposed):
                readers = None
            if opset >= form.opset(fused=False):
                coded = again(weight, array, coding, readers.transposed if readers else None)
                if coded is not None:
                    yield _Form(form, coded, readers)
        coded = few(weight, array) if opset >= Shared().opset(fused=False) else None
        if coded is not None:
            yield _Form(Shared(), coded)
            return
        coded = halved(array)
        if coded is not None:
            yield _Form(_HALF, coded)

    def _code(self, model: Model, weight: Weight, array: ChunkedArray, choice: _Choice) -> _Form | None:
        """The weight in the chosen form."""
        point, form, prune = choice.point, choice.values, not self.keep_zeros
        if point is not None:
            assert point.codebook is not None
            assert point.scale is not None
            if weight.element in QUANTISED:
                return _Form(Shared(), recoded(weight, array, point.codebook, prune, choice.feedback))
            wide = computed(array)
            assert wide is not None
            readers = self._readers(model, weight, DEQUANTISE_AXIS) if point.scale.size > 1 else None
            if readers is None:
                return _Form(Shared(), with_codebook(weight, wide, point.scale, point.codebook, prune, choice.feedback))
            coded = on_grid(weight, wide, point.scale, point.codebook, prune, readers.transposed, choice.feedback)
            return _Form(Int8(), coded, readers)
        if opset_of(model, weight.scope) < form.opset(fused=False):
            return None
        if weight.element in QUANTISED and isinstance(form, Shared):
            return _Form(form, form.recode(weight, array, choice.feedback))
        readers = self._readers_for(model, weight, form)
        made = form.code(weight, array, readers.transposed if readers else None, choice.feedback)
        if readers and readers.others and made and made.block and made.carrier.shape[0] % made.block:
            readers, made = None, form.code(weight, array, None, choice.feedback)
        return None if made is None else _Form(form, made, readers)

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
                sparse = Sparse.of(weight.chunked(model), weight.zero_value)
                if GRAPH["flat"].payload(sparse) < min(GRAPH[n].payload(sparse) for n in ("bitmask", "dense")):
                    yield gaps

    # the encoding ------------------------------------------------------------------------------------------

    def _encode(self, model: Model, weight: Weight, choice: _Choice, name: str, change: Change) -> bool:
        """Plant the smallest form; returns whether it took the name."""
        before = weight.nbytes(model)
        record = {"encoding": "coo" if weight.store == "sparse" else "dense", "bytes_after": before}
        change.weights[weight.name] = record
        if weight.overridable:
            change.skipped[weight.name] = "stays dense: it is a graph input that a caller may override"
            return False
        if weight.scope.shadows(weight.value):
            change.skipped[weight.name] = "stays dense: another body binds its name too, which no node may write"
            return False
        if weight.zero_value.ndim:
            change.skipped[weight.name] = "stays dense: its channels have different zero points"
            return False
        if not _encodable(weight, SMALL if choice.plain else _MIN_HALF_ELEMENTS):
            return False
        array = weight.chunked(model)
        kept = list(self._lossless(model, weight, array))
        asked = choice.values if choice.point is None and not choice.plain else None
        best = None
        if not choice.plain and not (asked and any(form.serves(asked) for form in kept)):
            form = self._code(model, weight, array, choice)
            best = None if form is None else self._best(model, weight, form, name, before)
            if best is None and asked and self._spec(weight) != _AUTO:
                why = "cannot hold it" if form is None else "gains nothing"
                change.notes.append(f"'{weight.name}' keeps exact values: {asked} {why}")
        lossy = best is not None
        kernel = lossy and asked is not None and best is not None and best.fused  # asked for whatever it takes
        compared = not kernel and (not lossy or bool(kept) or asked == _HALF)
        for form in (*kept, _Form(_EXACT, Coded(array, weight.zero_value))) if compared else ():
            limit = before if best is None else best.nbytes + lossy  # among equals the one without a loss
            prepared = self._best(model, weight, form, name, limit)
            if prepared is not None:
                if best is not None:
                    best.discard(model)
                best, lossy = prepared, False
        if compared and self._plant_coo(model, weight, array, before if best is None else best.nbytes):
            if best is not None:
                best.discard(model)
            record.update(encoding="coo", bytes_after=weight.nbytes(model))
        elif best is not None:
            insert(model, weight, best)
            record.update(encoding=best.encoding, bytes_after=best.nbytes)
            zeros = best.sparse.zeros() if lossy else weight.zeros(array)
            change.encoded[weight.name] = Encoded(weight.shape, zeros)
        else:
            if weight.reason and self.values == _AUTO and not self.keep_zeros:
                change.skipped[weight.name] = weight.reason
            return False
        change.modified = True
        model.payloads.forget_pages()
        return best is not None

    def _forms(self, model: Model, weight: Weight, coded: Coded) -> list[Encoding]:
        if self.encoding == "coo":
            return []
        named = [GRAPH[self.encoding]] if self.encoding in GRAPH else list(GRAPH.values())
        opset = opset_of(model, weight.scope)
        trivial = coded.codebook is None and coded.decoded == weight.zero_value.dtype and coded.scale is None
        inside = in_function(weight.scope)
        return [
            form
            for form in named
            if form.opset <= opset and not (form.name == "dense" and trivial) and not (form.declares and inside)
        ]

    def _best(self, model: Model, weight: Weight, form: _Form, name: str, limit: int) -> PreparedWeight | None:
        """The smallest graft below `limit` bytes: only encodings whose packed arrays come close are packed."""
        coded = form.coded
        sparse = Sparse.of(coded.carrier, coded.fill_value, coded.codebook)
        payloads: dict[str, int] = {}
        for encoding in sorted(self._forms(model, weight, coded), key=lambda encoding: encoding.least(sparse)):
            bound = min([limit, *payloads.values()]) + _NODES_DIFFER
            if encoding.least(sparse) < bound:
                payloads[encoding.name] = encoding.payload(sparse)
        if not payloads:
            return None
        least = min(payloads.values())
        if self.prefer == "speed" and self._rows_instead(sparse, payloads, least):
            least = payloads["rows"]
            payloads = {"rows": least}
        best: PreparedWeight | None = None
        for chosen, payload in payloads.items():
            if payload >= min(limit, least + _NODES_DIFFER):
                continue
            prepared = prepare(model, weight, coded, sparse, GRAPH[chosen], form.values, name, form.readers)
            if prepared.nbytes < (best.nbytes if best else limit):
                if best:
                    best.discard(model)
                best = prepared
            else:
                prepared.discard(model)
        return best

    @staticmethod
    def _rows_instead(sparse: Sparse, payloads: dict[str, int], least: int) -> bool:
        """Whether rows, which load faster than one flat run, are worth the bytes that they pad."""
        large = len(sparse.shape) == 2 and sparse.size >= _ROWS_FROM
        sparsely = large and sparse.codebook is not None and sparse.kept < sparse.size / 2
        if sparsely and "rows" not in payloads and ("flat" in payloads or "bitmask" in payloads):
            payloads["rows"] = GRAPH["rows"].payload(sparse)
        return sparsely and "rows" in payloads and payloads["rows"] <= _ROWS_MORE * least

    def _plant_coo(self, model: Model, weight: Weight, array: ChunkedArray, limit: int) -> bool:
        """Make the weight a sparse initializer where one may stand and takes fewer than `limit` bytes."""
        opset, ir_version = SPARSE_INITIALIZER
        allowed = self.encoding in ("auto", "coo") and model.opset >= opset and model.proto.ir_version >= ir_version
        if not allowed or weight.scope.path or weight.store == "constant" or weight.zero is not None:
            return False
        sparse = Sparse.of(array, weight.zero_value)
        if sparse.kept * (8 + array.dtype.itemsize) >= limit:
            return False
        return insert_sparse(model, weight, sparse, limit)


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


def _halvable(chunked: ChunkedArray) -> bool:
    """Whether float16 keeps 11 bits of every value of a float32 tensor."""

    def held(_: RowRange, part: Array) -> bool:
        size = np.abs(part[part != 0])
        return bool(np.isfinite(part).all()) and (not size.size or (size.min() >= 2**-14 and size.max() <= 65504))

    return chunked.dtype == np.float32 and all(chunked.each(held))


def _has_codebook(choice: _Choice) -> bool:
    return isinstance(choice.values, Shared) or (isinstance(choice.values, Int8) and choice.values.bits < 8)


def _lossy(weight: Weight) -> bool:
    """Whether the weight may lose precision: linear layers and large tables, not what is added or normalises."""
    return not (weight.kind in ("bias", "norm") or weight.kind.endswith("operand"))

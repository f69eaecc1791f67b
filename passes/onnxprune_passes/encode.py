"""encode: each weight in the smallest of the encodings, decoded by standard operators when the model is loaded."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.allocation import rate_distortion
from onnxprune.allocation.choice import choose, spent
from onnxprune.allocation.measurement import Asked, MeasurementPlan, Measurements, measure
from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.core.filled import beside
from onnxprune.core.override import override
from onnxprune.encodings import GATHERED, GRAPH, Values, form_of
from onnxprune.encodings.candidates import EXACT, Candidates, dense_because, may_lose
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.opset import raise_for
from onnxprune.encodings.smallest import Encoder, StoredWeight
from onnxprune.encodings.targets import Targets, readers_in
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find
from onnxprune.model.encoded_names import fresh_ids
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.model.weight import Weight, check_patterns, matches
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, Encoded, WeightRecord
from onnxprune.pipeline.per_weight import PerWeight, amount
from onnxprune.pipeline.progress import Progress, silent, tracked
from onnxprune.quantization.entropy_constrained import EXCESS

_AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Encode(Pass):
    """Per tensor the encoding with the fewest measured bytes wins, dense included.

    Few distinct values, and what a decoded weight was coded in, are kept bit for bit wherever another form would not
    take fewer bytes.

    Options:
        encoding: auto, graph (self-decoding forms only), coo, dense, or the name of one form.
        values: exact, half (float16), shared:BITS (k-means), int8, int8:BITS, int4, int2, int8-dynamic (needs data:
            where the layer bears activations in 8 bits, elsewhere int8), or auto: per weight the fewest bytes within
            the loss.
        set: "PATTERN=VALUES", a glob on the weight's name; the last match counts.
        skip: globs of weights that keep exact values.
        loss: for auto, the sum over the weights of squared error over energy. What the weights of a model that was
            encoded before have lost already counts. In a model of 16 weights or more that of each counts by the root
            of what reaches the outputs on synthesised inputs, against the usual weight.
        half_biases: whether biases and norms become float16 where that holds them, as they do in auto.
        keep_zeros: for auto, whether only what is 0 becomes 0.
        data: an .npz file or a folder (see `samples.load`): codebooks are rounded with error feedback on what the
            layers read; for auto a weight loses what its layer's outputs do, which choose what it keeps, and its
            loss counts by the root of what reaches the model's outputs, against the usual weight.
        importance: for auto, "PATTERN=NUMBER": what a unit of a weight's loss counts, in place of what reaches the
            outputs; the last match counts, and a weight that none matches counts 1.
        samples: at most so many samples of the data.
        half: only samples of the first half that `samples.cut` makes: the second is held out.
        prefer: speed (forms that load fast) or size: never more bytes for that, and the codebooks of shared and
            int8:BITS are those whose codes `pack` makes smaller, for at most a fifth more squared error.
        target: the runtimes that the file is for, NAME or NAME>=VERSION, or any; see `targets`.
    """

    name = "encode"
    encoding: str = "auto"
    values: str = "exact"
    set: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    loss: float = rate_distortion.LOSS
    half_biases: bool = False
    keep_zeros: bool = False
    data: str = ""
    importance: tuple[str, ...] = ()
    samples: int = 64
    half: bool = False
    prefer: str = "speed"
    target: tuple[str, ...] = ()

    @override
    def check(self) -> None:
        choices = ("auto", "graph", "coo", *GRAPH, GATHERED.name)
        if self.encoding not in choices:
            raise OptionError(f"encoding '{self.encoding}' is not one of {', '.join(choices)}")
        if self.prefer not in ("speed", "size"):
            raise OptionError(f"prefer '{self.prefer}' is not speed or size")
        if not math.isfinite(self.loss) or self.loss < 0:
            raise OptionError(f"loss must be a number from 0 up, not {self.loss}")
        asked = [self._form(self.values), *(form for _, form in self._by_name.entries)]
        if any(isinstance(form, Int8Dynamic) for form in asked) and not self.data:
            raise OptionError("values int8-dynamic needs data, on which the layers show whether they bear it")
        self._plan([])
        if self.target and self.encoding not in ("auto", "graph", *self._encoder.targets.encodings):
            raise OptionError(f"{', '.join(self.target)} does not read the encoding '{self.encoding}'")

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        return self.store(model, self.measure(model, progress), progress, again=False)

    def measure(self, model: Model, progress: Progress = silent) -> Measurements:
        """What does not depend on the loss, for `store` on the model or copies that are made of it afterwards.

        Raises the opset first where the forms want it, and the outputs stay the same.
        """
        weights = find(model)
        check_patterns(weights, (*self._by_name.patterns, *self.skip))
        plan = self._plan(weights)
        forms = [(weight, asked.values) for weight, asked in zip(weights, plan.asked, strict=True)]
        change = raise_for(model, forms, self._encoder)
        if change.modified:  # the newer opset has nodes of its own
            weights = find(model)
            plan = self._plan(weights)
        for group in encoded_weights(model):
            change.weights[group.name] = WeightRecord(encoding=group.encoding, bytes_after=group.nbytes(model))
        return measure(model, weights, plan, change, progress)

    def store(
        self, model: Model, measurements: Measurements, progress: Progress = silent, *, again: bool = True
    ) -> Change:
        """Choose within the loss, and store each weight in its smallest form.

        Args:
            model: the model that was measured, or a copy that was made of it since.
            measurements: what `measure` gave under the same options but the loss.
            progress: see `Pass.run`.
            again: whether another loss may follow, for which codings of small weights are kept.
        """
        change = copy.deepcopy(measurements.change)
        weights, choices = find(model), choose(measurements, self.loss)
        ids = fresh_ids(model.proto)
        name, encoder = next(ids), self._encoder
        exact: set[str] = set()  # that nothing else is read of, by a target
        readers: set[str] = set()  # of these
        for _, weight in tracked(progress, self.name, weights, lambda weight: weight.nbytes(model)):
            measured = measurements.weights[weight.name]
            integers = encoder.integers_of(weight, None if measured.curve else measured.values)
            found = Candidates(
                model, weight, measured.lossless, measured.coded if again else None, integers, encoder.tables,
                measured.matrix,
            )  # fmt: skip
            with beside(model.payloads.scratch):
                stored = encoder.store(found, choices[weight.name], name)
            if stored.numbered:
                name = next(ids)
            if stored.refused and (measured.values != EXACT or measured.curve):
                change.notes.append(f"'{weight.name}' keeps exact values: {stored.refused}")
            elif measured.asked:
                other = measured.values != measured.asked
                what = f"{measured.values} in place of {measured.asked}" if other else "decoded at load"
                change.notes.append(f"'{weight.name}' is {what}: {measured.refused}")
            self._report(weight, stored, change)
            if stored.tried and not stored.changed and may_lose(weight) and encoder.keeps_exact(found):
                exact.add(weight.name)
                readers |= readers_in(weight.scope, weight.value)
        if not weights:
            change.notes += _without_weights(model)
        lost = spent(measurements, choices, self.loss)
        if lost or model.spent:
            rate_distortion.spend(model, lost)
        unseen = [measured.unseen for measured in measurements.weights.values() if measured.curve]
        if unseen and all(unseen):
            change.notes.append("of no weight the inputs could be measured on the data: what they lose is as without")
        if encoder.targets.left_out and change.modified:
            change.notes.append(f"for {', '.join(self.target)} no use is made of {encoder.targets.left_out}")
        if change.modified:
            change.notes += encoder.targets.needed
        if exact:
            change.notes.append(
                f"for {', '.join(self.target)} {len(exact)} weights of {', '.join(sorted(readers))} stay exact: no "
                "smaller form of them is read there as fast"
            )
        inputs = sum(weight.overridable for weight in weights)
        if inputs:
            change.notes.append(
                f"{inputs} tensors stay dense: they are graph inputs, whose values a caller may override; "
                "freeze takes them out of the inputs"
            )
        return change

    @property
    def _encoder(self) -> Encoder:
        return Encoder(self.encoding, self.prefer, Targets.of(self.target))

    @property
    def _by_name(self) -> PerWeight[Values | None]:
        return PerWeight.parse("set", self.set, "VALUES", self._form)

    def _form(self, spec: str) -> Values | None:
        """The form of a spec; None where the loss decides."""
        return None if spec == _AUTO else form_of(spec, EXCESS if self.prefer == "size" else 0.0)

    def _plan(self, weights: Sequence[Weight]) -> MeasurementPlan:
        """What is measured of the weights."""
        default, by_name = self._form(self.values), self._by_name
        asked = []
        for weight in weights:
            named = by_name.match(weight.name)
            halves = self.half_biases and not may_lose(weight)
            form = named[1] if named is not None else None if halves else default
            if any(matches(weight.name, pattern) for pattern in self.skip):
                form = EXACT
            asked.append(Asked(form, named is not None))
        calibration = CalibrationSet(Path(self.data), self.samples, 0 if self.half else None) if self.data else None
        importance = PerWeight.parse("importance", self.importance, "NUMBER", amount)
        return MeasurementPlan(asked, self._encoder, not self.keep_zeros, calibration, importance)

    def _report(self, weight: Weight, stored: StoredWeight, change: Change) -> None:
        """Say what became of a weight."""
        change.weights[weight.name] = WeightRecord(encoding=stored.encoding, bytes_after=stored.nbytes)
        if stored.zeros is not None:
            change.encoded[weight.name] = Encoded(weight.shape, stored.zeros)
        if stored.emptied:
            change.emptied.append(weight.name)
        if stored.changed:
            change.modified = True
        elif not stored.tried:
            reason = dense_because(weight)
            if reason:
                change.skipped[weight.name] = reason
        elif weight.reason and self.values == _AUTO and not self.keep_zeros:
            change.skipped[weight.name] = weight.reason


def _without_weights(model: Model) -> list[str]:
    """What a file holds in place of weights, where that is most of it: trees and support vectors are attributes."""
    sizes = Counter[str]()
    for scope in (inner for top in scopes_of(model.proto) for inner in top.inner()):
        for node in scope.body.node:
            sizes[node.op_type] += node.ByteSize()
    operator, nbytes = next(iter(sizes.most_common(1)), ("", 0))
    if nbytes <= model.proto.ByteSize() / 2:
        return []
    return [
        f"the model has no weights: {nbytes / 1e6:.3g} MB of it are attributes of {operator}, which stay as they are"
    ]

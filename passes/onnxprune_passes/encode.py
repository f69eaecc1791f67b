"""encode: each weight in the smallest of the encodings, decoded by standard operators when the model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.dtypes import FLOATS, QUANTISED
from onnxprune.encodings import GRAPH, VALUES, Encoding, Sparse, Values
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
from onnxprune.errors import OptionError
from onnxprune.model import Model
from onnxprune.opset import raise_to
from onnxprune.pipeline import Change, Pass, Progress, silent
from onnxprune.weights import SMALL, Weight

SPARSE_INITIALIZER = (11, 5)  # the opset and IR version that brought it
_EXACT = VALUES["exact"]


@dataclass(frozen=True, kw_only=True)
class Encode(Pass):
    """Per tensor the encoding with the fewest measured bytes wins, dense included.

    Options:
        encoding: auto, graph (self-decoding forms only), coo, dense, or the name of one form.
        values: exact, or half (float16, widened when the model is loaded).
    """

    name = "encode"
    encoding: str = "auto"
    values: str = "exact"

    def __post_init__(self) -> None:
        """Check the options."""
        choices = ("auto", "graph", "coo", *GRAPH)
        if self.encoding not in choices:
            raise OptionError(f"encoding '{self.encoding}' is not one of {', '.join(choices)}")
        if self.values not in VALUES:
            raise OptionError(f"values '{self.values}' is not one of {', '.join(VALUES)}")

    def run(self, model: Model, progress: Progress = silent) -> Change:
        """See `Pass.run`."""
        change = Change()
        for group in planted_in(model):
            change.weights[group.name] = {"encoding": group.encoding, "bytes_after": group.nbytes(model)}
        self._raise_opset(model, change)
        ids = fresh_ids(model)
        weights = loose_weights(model)
        for done, weight in enumerate(weights):
            progress(self.name, done, len(weights))
            self._encode(model, weight, ids, change)
        inputs = sum(weight.overridable for weight in weights)
        if inputs:
            change.notes.append(
                f"{inputs} tensors stay dense: they are graph inputs, whose values a caller may override; "
                "take them out of the inputs to have them encoded"
            )
        return change

    def _raise_opset(self, model: Model, change: Change) -> None:
        """Below opset 11 only the bitmask can decode itself: raise the model where that is proven harmless."""
        needed = GRAPH["flat"].opset
        if self.encoding in ("coo", "dense", "bitmask") or model.opset >= needed:
            return
        if not any(self._worthwhile(model, weight) for weight in loose_weights(model)):
            return
        before = model.opset
        refusal = raise_to(model, needed)
        if refusal:
            change.notes.append(f"the opset stays at {before}: {refusal}")
        else:
            change.modified = True
            change.notes.append(f"the opset was raised from {before} to {needed}, and the outputs stayed the same")

    def _worthwhile(self, model: Model, weight: Weight) -> bool:
        """Whether gaps would beat what the present opset allows."""
        if weight.size < SMALL or weight.overridable or weight.element not in FLOATS | QUANTISED:
            return False
        if weight.zero_value.ndim or weight.scope.shadows(weight.value):
            return False
        sparse = Sparse.of(weight.array(model), weight.zero_value)
        size = _EXACT.itemsize(weight.element)
        return GRAPH["flat"].payload(sparse, size) < min(GRAPH[n].payload(sparse, size) for n in ("bitmask", "dense"))

    def _encode(self, model: Model, weight: Weight, ids: Iterator[str], change: Change) -> None:
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
        if weight.size < SMALL or weight.element not in FLOATS | QUANTISED:
            return
        sparse = Sparse.of(weight.array(model), weight.zero_value)
        values = self._values(weight)
        best = self._best(model, weight, sparse, values, next(ids), before)
        if best is None and values is not _EXACT:
            change.notes.append(f"'{weight.name}' keeps exact values: half precision cannot hold them or gains nothing")
            best = self._best(model, weight, sparse, _EXACT, next(ids), before)
        if self._plant_coo(model, weight, sparse, best.nbytes if best else before):
            if best:
                best.discard(model)
            record.update(encoding="coo", bytes_after=weight.nbytes(model))
        elif best:
            plant(model, weight, best)
            record.update(encoding=best.encoding, bytes_after=best.nbytes)
        else:
            return
        change.modified = True
        model.payloads.forget_pages()

    def _values(self, weight: Weight) -> Values:
        form = VALUES[self.values]
        lossless = weight.kind in ("bias", "norm") or weight.kind.endswith("operand")
        return form if form.fits(weight.element) and not lossless else _EXACT

    def _forms(self, model: Model, weight: Weight, values: Values) -> list[Encoding]:
        if self.encoding == "coo":
            return []
        named = [GRAPH[self.encoding]] if self.encoding in GRAPH else list(GRAPH.values())
        opset = opset_of(model, weight.scope)
        trivial = values is _EXACT  # dense and exact is what stands there already
        inside = in_function(weight.scope)
        return [
            form
            for form in named
            if form.opset <= opset and not (form.name == "dense" and trivial) and not (form.declares and inside)
        ]

    def _best(
        self, model: Model, weight: Weight, sparse: Sparse, values: Values, name: str, limit: int
    ) -> Graft | None:
        """The smallest graft below `limit` bytes: forms are tried by their lower bounds until none can win."""
        size = values.itemsize(weight.element)
        best: Graft | None = None
        for form in sorted(self._forms(model, weight, values), key=lambda form: form.least(sparse, size)):
            bound = best.nbytes if best else limit
            if form.least(sparse, size) >= bound:
                break
            if form.payload(sparse, size) >= bound:
                continue
            graft = prepare(model, weight, sparse, form, values, name)
            if graft is None:
                return None
            if graft.nbytes < bound:
                if best:
                    best.discard(model)
                best = graft
            else:
                graft.discard(model)
        return best

    def _plant_coo(self, model: Model, weight: Weight, sparse: Sparse, limit: int) -> bool:
        """Make the weight a sparse initializer where one may stand and takes fewer than `limit` bytes."""
        opset, ir_version = SPARSE_INITIALIZER
        allowed = self.encoding in ("auto", "coo") and model.opset >= opset and model.proto.ir_version >= ir_version
        if not allowed or weight.scope.path or weight.store == "constant" or weight.zero is not None:
            return False
        if len(sparse.positions) * (8 + sparse.values.dtype.itemsize) >= limit:
            return False
        return plant_sparse(model, weight, sparse, limit)

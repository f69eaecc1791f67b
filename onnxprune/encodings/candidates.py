"""Candidates: the value forms that a weight may take, and what holds it in each."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import FLOATS, QUANTISED, Array
from onnxprune.encodings.graph.fusion import Readers, readers_of
from onnxprune.encodings.graph.tables import gathers_of
from onnxprune.encodings.unit_dimensions import as_matrix
from onnxprune.encodings.values import FORMS, form_of
from onnxprune.encodings.values.base import Coded, Values
from onnxprune.encodings.values.floats import Exact, Half
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.lossless import again, few, fuses, halved
from onnxprune.encodings.values.rounding import decoded, loss_of, on_grid, pruned, recoded, with_codebook
from onnxprune.encodings.values.scales import computed, floats, live_channels
from onnxprune.encodings.values.shared import Shared
from onnxprune.model.discovery import opset_of
from onnxprune.model.model import Model
from onnxprune.model.operators import OPERAND
from onnxprune.model.weight import SMALL, Kind, Reason, Weight
from onnxprune.quantization.codebook import Codebook
from onnxprune.quantization.error_feedback import Feedback

MIN_HALF_ELEMENTS = 64  # elements below which half precision saves less than its Cast takes
EXACT, HALF, INT8 = Exact(), Half(), Int8()
_TRUSTED = 2.0  # a codebook that loses more than so many times the planned loss does not fit
_KEPT, _KEPT_BYTES = 3, 1 << 20  # codings of a weight that are kept for the next loss, of so many bytes at the most
# The kinds of what quantising operators read beside their weights: a few bytes that every tool reads dense.
_GRIDS = frozenset(
    f"{operator} {OPERAND}"
    for operator in (
        "ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    )
)  # fmt: skip
_ROUNDED = 1e-6  # of a loss: scales and levels become float16

CodingKey = tuple[int, bool]  # the id of a codebook, and whether errors stay where they are made


@dataclass(frozen=True)
class Choice:
    """What becomes of a weight: a value form, or a codebook that was fitted to it.

    Attributes:
        values: the form, where there is no codebook.
        codebook: levels for the weight over its scale.
        scale: what goes with the codebook; it broadcasts over the weight.
        prune: whether the codebook may make entries 0.
        feedback: how rounding errors are passed on, where the layer's inputs were measured, or are assumed.
        folded: whether the codebook is decoded at load, whoever reads the weight.
        kept: the share of the entries that are left, by their feedback, before the others are rounded; 0: all.
        planned: the loss that it was chosen for: squared error over energy, of the weight or half that of its worst
            channel, or of its outputs where these were measured; None where no loss decided.
        finer: what is taken instead where it loses more than twice that; None: the values themselves.
    """

    values: Values = EXACT
    codebook: Codebook | None = None
    scale: Array | None = None
    prune: bool = True
    feedback: Feedback | None = None
    folded: bool = False
    kept: float = 0.0
    planned: float | None = None
    finer: Choice | None = None

    @property
    def plain(self) -> bool:
        """Whether it keeps the values."""
        return self.values == EXACT and self.codebook is None

    @property
    def asked(self) -> Values | None:
        """The form other than exact, where no codebook was fitted."""
        return None if self.plain or self.codebook is not None else self.values


@dataclass(frozen=True)
class Candidate:
    """A weight in a value form.

    Attributes:
        values: the form.
        coded: what it holds.
    """

    values: Values
    coded: Coded

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

    @property
    def nbytes(self) -> int:
        """Bytes of the carrier in memory."""
        carrier = self.coded.carrier
        return carrier.size * carrier.dtype.itemsize

    def held(self) -> Candidate:
        """The same, read from memory alone: no copy of the model is behind it."""
        return replace(self, coded=replace(self.coded, carrier=ChunkedArray.of(self.coded.carrier).whole()))


class Candidates:
    """The forms that one weight may take; what they have in common is looked for once.

    Args:
        model: the model.
        weight: of the model.
        lossless: `lossless` where it is known from a copy of the model.
        coded: what was coded before, by the codebook; the latest small ones are kept in it.
        integers: the value forms whose integers kernels may read.
        tables: whether a table may be decoded row by row as rows are gathered; every row has a scale then.
        matrix: whether a weight with unit dimensions in front is a matrix here, where that is known from a copy.

    Attributes:
        weight: the weight, or the matrix that it is stored as; see `as_matrix`.
        matrix: whether it is such a matrix.
        gathers: the nodes that gather rows of such a table; empty for every other weight.
    """

    def __init__(
        self, model: Model, weight: Weight, lossless: tuple[Candidate, ...] | None = None,
        coded: dict[CodingKey, Candidate] | None = None, integers: Container[str] = FORMS, tables: bool = False,
        matrix: bool | None = None,
    ) -> None:  # fmt: skip
        self.gathers = gathers_of(weight) if tables else []
        if self.gathers:
            weight = replace(weight, out_axis=0, in_axes=(1,))
        found = None if matrix is False else as_matrix(model, weight, known=matrix is True)
        self.matrix, weight = found is not None, found or weight
        self.model, self.weight, self._coded = model, weight, {} if coded is None else coded
        self._integers = integers
        self.opset = opset_of(model, weight.scope)
        if lossless is not None:
            self.lossless = lossless

    @cached_property
    def array(self) -> ChunkedArray:
        """The weight's values."""
        array = self.weight.chunked(self.model)
        return ChunkedArray.of(array.whole().reshape(self.weight.shape)) if self.matrix else array

    @cached_property
    def wide(self) -> ChunkedArray | None:
        """The values of a float weight as `computed` gives them."""
        return computed(self.array) if self.weight.element in FLOATS else None

    @cached_property
    def _readers(self) -> Readers | None:
        return readers_of(self.weight)

    def readers(self, form: Values = INT8) -> Readers | None:
        """Who reads the integers of a form, where it has a kernel and the model the opset for it."""
        if not form.has_kernel or form.name not in self._integers or self.opset < form.opset(fused=True):
            return None
        found = self._readers
        return None if found is not None and found.others and form.stored else found

    @cached_property
    def lossless(self) -> tuple[Candidate, ...]:
        """The forms that hold every bit of the weight in fewer bytes than its own values take."""
        return tuple(self._lossless())

    def _lossless(self) -> Iterator[Candidate]:
        coding = self.model.codings.get(self.weight.name)
        if coding is not None and coding.scale is not None and self.matrix and not coding.block and not coding.view:
            coding = replace(coding, scale=coding.scale.reshape(coding.scale.shape[-2:]))
        if coding is not None and coding.scale is not None and coding.form in FORMS:
            form = form_of(coding.form)
            readers = self.readers(form)
            if readers and not fuses(coding, self.weight.shape, readers.transposed):
                readers = None
            if self.opset >= form.opset(fused=False):
                coded = again(self.weight, self.wide, coding, readers.transposed if readers else None)
                if coded is not None:
                    yield Candidate(form, coded)
        coded = few(self.weight, self.array) if self.opset >= Shared().opset(fused=False) else None
        if coded is not None:
            yield Candidate(Shared(), coded)
            return
        coded = halved(self.array)
        if coded is not None:
            yield Candidate(HALF, coded)

    @property
    def exact(self) -> Candidate:
        """The values themselves."""
        return Candidate(EXACT, Coded(self.array, self.weight.zero_value))

    def chosen(self, choice: Choice) -> Candidate | None:
        """The weight as a choice wants it, or as a finer one does where it loses more than twice the planned loss.

        Returns:
            None where the form cannot hold it, or nothing but the values themselves loses little enough.
        """
        if choice.planned is None:
            return self._in(choice.values, choice.feedback)
        left: Choice | None = choice
        while left is not None and not left.plain:
            form = self._planned(left)
            if form is not None and form.coded.lost <= _TRUSTED * choice.planned + _ROUNDED:
                return form
            left = left.finer
        return None

    def _in(self, form: Values, feedback: Feedback | None = None) -> Candidate | None:
        """The weight in a form."""
        weight = self.weight
        if self.opset < form.opset(fused=False):
            return None
        if weight.element in QUANTISED and isinstance(form, Shared):
            return Candidate(form, form.recode(weight, self.array, feedback))
        readers = self.readers(form)
        coded = form.code(weight, self.array, readers.transposed if readers else None, feedback)
        if readers and readers.others and coded and coded.block and coded.carrier.shape[0] % coded.block:
            coded = form.code(weight, self.array, None, feedback)
        return None if coded is None else Candidate(form, coded)

    def _planned(self, choice: Choice) -> Candidate | None:
        """The weight in the codebook or form of a choice, with what it loses; its values are finite."""
        if choice.codebook is None:
            return self._formed(choice)
        # Of a point of the weight's curve, which lives as long as `coded`.
        key = (id(choice.codebook), choice.feedback is None)
        form = self._coded.pop(key, None) or self._fitted(choice, choice.codebook)
        if form.nbytes <= _KEPT_BYTES:
            self._coded[key] = form
            while len(self._coded) > _KEPT:
                del self._coded[next(iter(self._coded))]
        return form

    def _formed(self, choice: Choice) -> Candidate | None:
        """The weight in the form of a choice without a codebook, with what it loses."""
        form, weight = self._in(choice.values, choice.feedback), self.weight
        if form is None:
            return None
        coded = form.coded
        carrier, scale, transposed = coded.carrier, coded.scale, None
        if coded.fused and scale is not None:  # [in, out] for its readers
            carrier, transposed = ChunkedArray.of(carrier).whole(), coded.transposed
            scale = np.repeat(scale, coded.block, axis=0)[: len(carrier)] if coded.block else scale[None]
            carrier, scale = (carrier.T, scale.T) if transposed else (carrier, scale)
        wide = live_channels(weight, floats(self.array), transposed)[0]
        lost = loss_of(weight, wide, decoded(carrier, None, scale), transposed, choice.feedback)
        return replace(form, coded=replace(coded, lost=lost))

    def _fitted(self, choice: Choice, codebook: Codebook) -> Candidate:
        """The weight in a codebook."""
        weight, scale, prune, feedback = self.weight, choice.scale, choice.prune, choice.feedback
        if weight.element in QUANTISED:
            return Candidate(Shared(), recoded(weight, self.array, codebook, prune, feedback, planned=True))
        assert scale is not None
        readers = self.readers() if scale.size > 1 else None
        transposed = readers.transposed if readers else None
        before = wide = live_channels(weight, floats(self.array), transposed)[0]
        if choice.kept and feedback is not None:
            wide, prune = pruned(weight, before, feedback, choice.kept), False
        if readers is None or choice.folded:
            coded = with_codebook(weight, wide, scale, codebook, prune, feedback, transposed, against=before)
            return Candidate(Shared(), coded)
        coded = on_grid(weight, wide, scale, codebook, prune, transposed, feedback, against=before)
        return Candidate(INT8, coded)


def encodable(weight: Weight, least: int = SMALL) -> bool:
    """Whether a weight of at least so many elements may be something else than a plain dense tensor."""
    held = weight.size >= least and weight.element in FLOATS | QUANTISED
    return held and weight.kind not in _GRIDS and not dense_because(weight)


def dense_because(weight: Weight) -> Reason | None:
    """Why a weight has to stay a dense tensor; None where it need not."""
    if weight.overridable:
        return _dense("it is a graph input that a caller may override")
    if weight.scope.shadows(weight.value):
        return _dense("another body binds its name too, which no node may write")
    if weight.zero_value.ndim:
        return _dense("its channels have different zero points")
    return None


def _dense(why: str) -> Reason:
    return Reason(Kind.DENSE, f"stays dense: {why}", "stays dense")


def may_lose(weight: Weight) -> bool:
    """Whether the weight may lose precision: linear layers and large tables, not what is added or normalises.

    Nor integers of which nothing says what they count from: what a change of them loses is not known.
    """
    unknown = weight.reason is not None and weight.reason.kind is Kind.QUANTIZATION
    return not (unknown or weight.kind in ("bias", "norm") or weight.is_operand)

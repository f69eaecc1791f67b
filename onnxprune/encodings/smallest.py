"""The smallest form of a weight: candidates are prepared one after the other, and the one with the fewest bytes stays.

Among equals the one without a loss does. At any time at most two candidates of a weight are held, and of small weights
those that were coded for other losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import numpy_dtype
from onnxprune.encodings import FORMS, GATHERED, GRAPH, Encoding, Sparse, Values, named
from onnxprune.encodings.candidates import EXACT, HALF, MIN_HALF_ELEMENTS, Candidate, Candidates, Choice, encodable
from onnxprune.encodings.graph.insert import (
    PreparedSparse,
    PreparedWeight,
    insert,
    insert_sparse,
    prepare,
    prepare_rows,
    prepare_sparse,
)
from onnxprune.encodings.positions.chunks import row_ranges
from onnxprune.encodings.targets import EVERY_FORM, Targets, readers_in
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.shared import Shared
from onnxprune.model.discovery import in_function
from onnxprune.model.weight import SMALL, Weight

SPARSE_INITIALIZER = (11, 5)  # the opset and IR version that brought it
# Bytes of nodes and names around an encoded weight: floats of half the size, integers with scales, codes of a byte
# each; and more where a word holds several codes, where zeros are skipped, and where codes have scales.
HALF_NODES, GRID_NODES, NODES, WORD_NODES, SKIP_NODES, SCALE_NODES = 120, 200, 310, 200, 400, 90
_ROWS, _ESCAPE = GRAPH["rows"], GRAPH["escape"]
_MORE, _ROWS_FROM = 1.2, 1 << 20  # rows load in half the time, tables in none: worth a fifth of a large matrix
_KERNEL_PAYS = 1 << 15  # entries from which integers in a kernel are faster than floats
FOLDED = 1 << 30  # bytes; ONNX Runtime from 1.27 on folds no node that makes more, but runs it at each inference
# times the weight's bytes that chunks of it, or integers for a kernel, may make while they are decoded: with the packed
# arrays and what the kernel makes of them that is about twice what a dense weight takes at load
_HELD = 3.6
TOO_LARGE = "onnxruntime would decode it at every run, for it keeps no tensor of more than 1 GiB that it makes"
_TOO_MUCH = "whatever was planned for it lost more than twice that"
_NODES_DIFFER = 1024  # bytes by which the nodes of two forms differ at the most


@dataclass(frozen=True)
class StoredWeight:
    """What became of a weight.

    Attributes:
        encoding: coo, dense, or the name of the encoding that decodes itself.
        nbytes: bytes in the file.
        zeros: how many entries equal the fill value, of a weight that decodes itself; else None.
        changed: whether it is stored otherwise than before.
        numbered: whether the name that was offered may be in the model.
        refused: why it is not in the form that was asked for.
        tried: whether it may be stored otherwise at all, see `candidates.encodable`.
        emptied: whether a form that a loss decided on left a channel without an entry.
    """

    encoding: str
    nbytes: int
    zeros: int | None = None
    changed: bool = False
    numbered: bool = False
    refused: str = ""
    tried: bool = True
    emptied: bool = False


def decodes_once(weight: Weight) -> bool:
    """Whether ONNX Runtime keeps the decoded weight, so that it has to decode it only once."""
    return np.dtype(numpy_dtype(weight.element)).itemsize * weight.size <= FOLDED


@dataclass(frozen=True)
class Encoder:
    """Stores weights in the smallest of the encodings that may be taken.

    Attributes:
        encoding: auto, graph (those that decode themselves), coo, or the name of one.
        targets: the runtimes that the file is for.
        prefer: speed takes rows, which load fast, and tables that are decoded row by row in place of forms that are
            hardly smaller; size never does.
    """

    encoding: str = "auto"
    prefer: str = "speed"
    targets: Targets = EVERY_FORM

    @property
    def tables(self) -> bool:
        """Whether a table may be decoded row by row."""
        return self.encoding in ("auto", "graph", GATHERED.name) and self.targets.tables

    @property
    def integers(self) -> frozenset[str]:
        """The value forms whose integers kernels may read."""
        if self.encoding in ("auto", "graph", "dense"):
            return self.targets.integers
        return frozenset(name for name in self.targets.integers if not FORMS[name].stored)

    def integers_of(self, weight: Weight, asked: Values | None) -> frozenset[str]:
        """The value forms whose integers kernels may read of a weight.

        Args:
            weight: the weight.
            asked: the form that is asked for; None where the loss decides, which leaves small ones to floats.
        """
        return self.integers if asked is not None or weight.size >= _KERNEL_PAYS else frozenset()

    def store(self, found: Candidates, choice: Choice, name: str) -> StoredWeight:
        """Put the smallest of a weight's candidates into the model: lossless forms, the chosen one, exact, coo.

        Args:
            found: the candidates.
            choice: the form that may lose something, or a plain one.
            name: what the weight's nodes and tensors may be called by; see `encoded_names`.
        """
        model, weight = found.model, found.weight
        before, encoding = weight.nbytes(model), "coo" if weight.store == "sparse" else "dense"
        if not encodable(weight, SMALL if choice.plain else MIN_HALF_ELEMENTS):
            return StoredWeight(encoding, before, tried=False)
        best, refused = self._lossy(found, choice, name, before)
        numbered = lossy = best is not None
        if best is None or not self._alone(found, choice, best):
            for form in (*found.lossless, found.exact, None):
                limit = before if best is None else best.nbytes + lossy
                other = self._prepared(found, form, name, limit) if form else self._sparse(found, limit)
                if other is not None:
                    if best is not None:
                        best.discard(model)
                    best, lossy = other, False
                    numbered = numbered or form is not None
        if best is None:
            return StoredWeight(encoding, before, refused=refused)
        if isinstance(best, PreparedSparse):
            insert_sparse(model, weight, best)
            stored = StoredWeight("coo", weight.nbytes(model), None, True, numbered, refused)
        else:
            zeros = best.sparse.zeros() if lossy else weight.zeros(found.array)
            decided = lossy and choice.planned is not None and not found.gathers
            emptied = decided and best.sparse.keeps_nothing_of(_channels(weight, best.sparse))
            insert(model, weight, best)
            stored = StoredWeight(best.encoding, best.nbytes, zeros, True, True, refused, emptied=emptied)
        model.payloads.forget_pages()
        return stored

    def _lossy(
        self, found: Candidates, choice: Choice, name: str, before: int
    ) -> tuple[PreparedWeight | PreparedSparse | None, str]:
        """The chosen form where it saves bytes, and else why not."""
        asked = choice.asked
        if choice.plain or (asked and any(form.serves(asked) for form in found.lossless)):
            return None, ""
        form = found.chosen(choice)
        if form is None:
            return None, f"{asked} cannot hold it" if choice.planned is None else _TOO_MUCH
        best = self._prepared(found, form, name, before)
        allowed = self._allowed(found, form)
        if best is None and allowed and not found.gathers and not self._folding(found, form, _sparse_of(found, form)):
            return None, TOO_LARGE
        if best is not None or not asked:
            return best, ""
        if not allowed:
            return None, f"{self.encoding} cannot hold {asked} where it stands"
        return None, f"{asked} gains nothing"

    @staticmethod
    def _alone(found: Candidates, choice: Choice, best: PreparedWeight | PreparedSparse) -> bool:
        """Whether the chosen form stands without a comparison: it has a kernel, or nothing else comes near it."""
        asked = choice.asked
        if asked is not None and isinstance(best, PreparedWeight) and best.kernel:
            return True  # asked for whatever it takes
        return not found.lossless and asked != HALF

    def may_hold(self, found: Candidates, values: Values, fused: bool = False, scaled: bool = False) -> bool:
        """Whether the targets read a weight in a value form where it stands, in any of the encodings.

        Args:
            found: the weight's candidates.
            values: the form.
            fused: whether a kernel reads the integers.
            scaled: whether a scale stands behind what is decoded.
        """
        if self.tables and found.gathers:
            return True
        weight = found.weight
        readers = readers_in(weight.scope, weight.value)
        return any(
            self.targets.allows(form.name, values.name, readers, fused, scaled, weight.size)
            for form in named(self.encoding) or GRAPH.values()
            if form.opset <= found.opset and (form.name, values.name) != ("dense", EXACT.name)
        )

    def keeps_exact(self, found: Candidates) -> bool:
        """Whether the targets read no form of a weight that decodes itself or that a kernel takes."""
        if not self.targets.names:
            return False
        forms = [form() for form in FORMS.values()]
        return not any(self.may_hold(found, form, fused) for form in forms for fused in (False, *_kernel(found, form)))

    def in_planes(self, found: Candidates) -> bool:
        """Whether the codes of a weight may be stored in planes."""
        weight, fused = found.weight, found.readers() is not None
        readers, values = readers_in(weight.scope, weight.value), Int8.name if fused else Shared.name
        fits = _ESCAPE.opset <= found.opset and np.dtype(np.int32).itemsize * weight.size <= FOLDED
        return (
            fits
            and _ESCAPE in named(self.encoding)
            and self.targets.allows(_ESCAPE.name, values, readers, fused, not fused, weight.size)
        )

    def estimate(self, found: Candidates, form: Candidate) -> int:
        """Bytes of a form, nodes and names included."""
        sparse, scale = _sparse_of(found, form), form.coded.scale
        allowed = self._folding(found, form, sparse)
        payloads = [encoding.payload(sparse) for encoding in allowed]
        payloads += [GATHERED.payload(sparse)] if self._gathers(found, form, sparse) else []
        around = NODES + SKIP_NODES + (scale.nbytes + SCALE_NODES if scale is not None else 0)
        return min(payloads) + around if payloads else found.weight.nbytes(found.model)

    def _allowed(self, found: Candidates, candidate: Candidate) -> list[Encoding]:
        """The encodings that decode themselves and may hold a form of the weight where it stands."""
        coded, values = candidate.coded, candidate.values.name
        trivial = coded.codebook is None and coded.decoded == found.weight.zero_value.dtype and coded.scale is None
        scaled = coded.scale is not None and not coded.fused
        inside, readers = in_function(found.weight.scope), readers_in(found.weight.scope, found.weight.value)
        return [
            form
            for form in named(self.encoding)
            if self.targets.allows(form.name, values, readers, coded.fused, scaled, found.weight.size)
            and form.opset <= found.opset
            and form.fits(coded.codebook)
            and not (form.name == "dense" and trivial)
            and (form.name == "dense" or not (coded.fused and candidate.values.stored))
            and not (form.declares and inside)
        ]

    def _folding(self, found: Candidates, form: Candidate, sparse: Sparse) -> list[Encoding]:
        """Those that may hold the weight and that ONNX Runtime decodes once, when it loads the model."""
        allowed, coded = self._allowed(found, form), form.coded
        readers = found.readers(form.values) if coded.fused else None
        item = coded.decoded.itemsize
        if readers is None or readers.others:
            item = max(item, np.dtype(numpy_dtype(found.weight.element)).itemsize, 4 * (coded.scale is not None))
        if item * sparse.size > FOLDED:  # a dense initializer that a kernel alone reads needs no folding
            integers = readers is not None and not readers.others and (sparse.codebook is None or sparse.packed)
            return [encoding for encoding in allowed if encoding.name == "dense" and integers]
        most = _HELD * found.weight.size * np.dtype(numpy_dtype(found.weight.element)).itemsize
        integers = coded.fused and np.dtype(np.int64).itemsize * sparse.size > FOLDED
        return [
            encoding
            for encoding in allowed
            if (chunks := row_ranges(encoding, sparse, FOLDED))
            and (not (integers or chunks[1:]) or encoding.made(sparse) + sparse.nbytes <= most)
        ]

    def _prepared(self, found: Candidates, form: Candidate, name: str, limit: int) -> PreparedWeight | None:
        """A form in its smallest encoding below `limit` bytes: only those whose packed arrays come close are packed."""
        sparse = _sparse_of(found, form)
        payloads: dict[str, int] = {}
        gathers = self._gathers(found, form, sparse)
        allowed = self._folding(found, form, sparse)
        for encoding in sorted(allowed, key=lambda encoding: encoding.least(sparse)):
            bound = min([limit, *payloads.values()]) + _NODES_DIFFER
            # Every encoding has the nodes of dense, and more.
            if encoding.least(sparse) < min(bound, payloads.get("dense", bound)):
                payloads[encoding.name] = encoding.payload(sparse)
        least = min(payloads.values(), default=limit)
        if gathers and self.prefer == "speed" and GATHERED.payload(sparse) <= _MORE * least:
            return self._under(found, self._rows(found, form, sparse, name), limit)
        if self.prefer == "speed" and _ROWS in allowed and _rows_instead(sparse, payloads, least):
            least = payloads[_ROWS.name]
            payloads = {_ROWS.name: least}
        readers, dense = found.readers(form.values) if form.coded.fused else None, payloads.get("dense", limit)
        best: PreparedWeight | None = None
        for chosen, payload in payloads.items():
            if payload >= min(limit, least + _NODES_DIFFER) or (chosen != "dense" and payload >= dense):
                continue
            chunks = row_ranges(GRAPH[chosen], sparse, FOLDED)
            prepared = prepare(
                found.model, found.weight, form.coded, sparse, GRAPH[chosen], form.values, name, readers, chunks
            )
            if prepared.nbytes < (best.nbytes if best else limit):
                if best:
                    best.discard(found.model)
                best = prepared
            else:
                prepared.discard(found.model)
        if gathers and GATHERED.payload(sparse) < least + _NODES_DIFFER:
            rows = self._under(found, self._rows(found, form, sparse, name), best.nbytes if best else limit)
            if rows is not None and best is not None:
                best.discard(found.model)
            best = rows or best
        return best

    def _gathers(self, found: Candidates, form: Candidate, sparse: Sparse) -> bool:
        """Whether a form of a table may be decoded row by row."""
        coded = form.coded
        trivial = coded.codebook is None and coded.decoded == found.weight.zero_value.dtype
        fits = coded.scale is None or coded.scale.size == 1 or len(coded.scale) == found.weight.shape[0]
        return bool(found.gathers) and not trivial and fits and GATHERED.fits(sparse, found.opset)

    @staticmethod
    def _rows(found: Candidates, form: Candidate, sparse: Sparse, name: str) -> PreparedWeight:
        """A form of a table that is decoded row by row."""
        return prepare_rows(found.model, found.weight, form.coded, sparse, form.values, name, found.gathers)

    @staticmethod
    def _under(found: Candidates, prepared: PreparedWeight, limit: int) -> PreparedWeight | None:
        """What was prepared, where it takes fewer than so many bytes."""
        if prepared.nbytes < limit:
            return prepared
        prepared.discard(found.model)
        return None

    def _sparse(self, found: Candidates, limit: int) -> PreparedSparse | None:
        """The weight as a sparse initializer where one may stand and takes fewer than `limit` bytes."""
        model, weight = found.model, found.weight
        opset, ir_version = SPARSE_INITIALIZER
        readers = readers_in(weight.scope, weight.value)
        allowed = self.encoding in ("auto", "coo") and self.targets.allows("coo", "exact", readers, entries=weight.size)
        allowed = allowed and model.opset >= opset and model.proto.ir_version >= ir_version
        if not allowed or weight.scope.path or weight.store == "constant" or weight.zero is not None:
            return None
        sparse = Sparse.of(found.array, weight.zero_value)
        if sparse.kept * (8 + found.array.dtype.itemsize) >= limit:
            return None
        prepared = prepare_sparse(model, weight, sparse)
        if prepared.nbytes < limit:
            return prepared
        prepared.discard(model)
        return None


def _kernel(found: Candidates, form: Values) -> tuple[bool, ...]:
    """True, where a kernel may read integers of a form."""
    return (True,) if found.readers(form) is not None else ()


def _channels(weight: Weight, sparse: Sparse) -> list[int]:
    """The axes of a stored weight along which channels lie; a kernel may want a matrix transposed."""
    if len(sparse.shape) == 2:
        return [0, 1]
    return [axis for axis in (weight.out_axis, *weight.in_axes[:1]) if axis is not None]


def _sparse_of(found: Candidates, form: Candidate) -> Sparse:
    coded, readers = form.coded, found.readers(form.values)
    alone = readers is not None and not readers.others  # who else reads the weight reads it decoded
    return Sparse.of(coded.carrier, coded.fill_value, coded.codebook, coded.packed if alone else None)


def _rows_instead(sparse: Sparse, payloads: dict[str, int], least: int) -> bool:
    """Whether rows, which load faster than one flat run, are worth the bytes that they pad."""
    large = len(sparse.shape) == 2 and sparse.size >= _ROWS_FROM
    sparsely = large and sparse.codebook is not None and sparse.kept < sparse.size / 2
    if sparsely and _ROWS.name not in payloads and ("flat" in payloads or "bitmask" in payloads):
        payloads[_ROWS.name] = _ROWS.payload(sparse)
    return sparsely and _ROWS.name in payloads and payloads[_ROWS.name] <= _MORE * least

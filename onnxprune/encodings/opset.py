"""The opsets that forms want, and the model raised to one of them where that is proven harmless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxprune.encodings import Encoding, Sparse, Values, named
from onnxprune.encodings.candidates import EXACT, HALF, encodable, may_lose
from onnxprune.encodings.graph.fusion import readers_of
from onnxprune.encodings.misread_operators import READ_RIGHT, misreaders
from onnxprune.encodings.smallest import Encoder
from onnxprune.encodings.unit_dimensions import as_matrix
from onnxprune.encodings.values.base import DEQUANTISE_AXIS, INT2, INT4
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.shared import Shared
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.change import Change

_CODES = Shared().opset(fused=False)


def raise_for(model: Model, forms: Iterable[tuple[Weight, Values | None]], encoder: Encoder) -> Change:
    """Raise the model as far as the forms want, where its outputs stay the same; else to the next best opset.

    Args:
        model: the model.
        forms: its weights, and the form of each; None: whatever the loss allows.
        encoder: what will store them, and for whom: operators that a target would take for others are raised too.
    """
    change, before, refusal = Change(), model.opset, ""
    misread = misreaders(model, encoder.targets.runtimes)
    wanted = {READ_RIGHT if misread(version) else version for version in (before, *_wanted(model, forms, encoder))}
    wanted = {version for version in wanted if version > before}
    for version in sorted(wanted, reverse=True):
        from onnxprune.runtime.opset import raise_to  # which runs models: most need no newer opset

        refusal = raise_to(model, version)
        if not refusal:
            change.modified = True
            change.notes.append(f"the opset was raised from {before} to {version}, and the outputs stayed the same")
            return change
    if refusal:
        change.notes.append(f"the opset stays at {before}: {refusal}")
        change.notes += [
            f"{name} takes a Softmax of opset {before} along one axis of several" for name in misread(before)
        ]
    return change


def _wanted(model: Model, forms: Iterable[tuple[Weight, Values | None]], encoder: Encoder) -> set[int]:
    """Opsets at which some weight gets a better form."""
    encodings = [each for each in named(encoder.encoding) if encoder.targets.takes(each.name)]
    found = set[int]()
    highest = max((each.opset for each in encodings), default=0)
    if not encodings or model.opset >= max(INT2, highest):
        return found
    packed: list[tuple[Weight, Values]] = []
    for weight, asked in forms:
        if not encodable(weight):
            continue
        form = asked if may_lose(weight) else EXACT
        kernel = Int8() if form is None else form
        integers = kernel.has_kernel and kernel.name in encoder.integers_of(weight, form)
        if integers and readers_of(as_matrix(model, weight) or weight) is not None:
            found.update({kernel.opset(fused=True), INT4, DEQUANTISE_AXIS})
        least = _CODES if form is None else form.opset(fused=False)
        if form is None or least > model.opset:
            found.add(max(least, highest))  # which encoding is the smallest for codes is known once there are codes
        elif highest > model.opset:
            packed.append((weight, form))
    newer = {each.opset for each in encodings if each.opset > model.opset}
    for weight, form in packed:
        if newer <= found:
            break
        found.update(_better(model, weight, form, encodings))
    return found


def _better(model: Model, weight: Weight, form: Values, encodings: list[Encoding]) -> Iterator[int]:
    """The opsets of the encodings that the model lacks and that take fewer bytes than those that it has."""
    held = [each for each in encodings if each.opset <= model.opset]
    missing = [each for each in encodings if each.opset > model.opset]
    if not held and form != EXACT:  # the weight would not get its form at all
        yield min(each.opset for each in missing)
        return
    if form not in (EXACT, HALF):  # what stores codes alone is the smallest for many of them
        yield from (each.opset for each in missing if not each.fits(None))
    sparse = Sparse.of(weight.chunked(model), weight.zero_value)
    least = min([weight.nbytes(model), *(each.payload(sparse) for each in held if each.fits(None))])
    yield from (each.opset for each in missing if each.fits(None) and each.payload(sparse) < least)

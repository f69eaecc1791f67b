"""The opsets that forms want, and the model raised to one of them where that is proven harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from onnxprune.encodings import Encoding, Sparse, Values, named
from onnxprune.encodings.candidates import EXACT, HALF, encodable, may_lose
from onnxprune.encodings.graph.fusion import readers_of
from onnxprune.encodings.smallest import Encoder
from onnxprune.encodings.targets import Targets
from onnxprune.encodings.unit_dimensions import as_matrix
from onnxprune.encodings.values.base import DEQUANTISE_AXIS, INT2, INT4
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.shared import Shared
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import scopes_of
from onnxprune.model.weight import Weight
from onnxprune.pipeline.change import Change

_CODES = Shared().opset(fused=False)
# Until opset 12 these take all axes from one on. Runtimes take that one alone, without an error, from an opset on:
# OpenVINO 2026.4.1 (Softmax), OpenCV 5.0.0, LiteRT 2.1.0 with onnx2tf 1.29.24, and MNN 3.6.1. At opset 13 the converter
# makes a Flatten, the operator along the last axis and a Reshape of them, which all of these read right.
_OF_SEVERAL, _OF_ONE = frozenset({"Softmax", "LogSoftmax"}), 13
_TAKE_ONE = {"litert": 1, "mnn": 1, "opencv": 1, "openvino": 11}


def raise_for(model: Model, forms: Iterable[tuple[Weight, Values | None]], encoder: Encoder) -> Change:
    """Raise the model as far as the forms want, where its outputs stay the same; else to the next best opset.

    Args:
        model: the model.
        forms: its weights, and the form of each; None: whatever the loss allows.
        encoder: what will store them, and for whom: operators that a target would take for others are raised too.
    """
    change, before, refusal = Change(), model.opset, ""
    misread = _misread(model, encoder.targets)
    wanted = {_OF_ONE if misread(version) else version for version in (before, *_wanted(model, forms, encoder))}
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


def _misread(model: Model, targets: Targets) -> Callable[[int], list[str]]:
    """Which of the targets misread the model under an opset, as far as is known."""
    since = {name: first for name, first in _TAKE_ONE.items() if name in targets.runtimes}
    if model.opset >= _OF_ONE or not since or not _of_several_axes(model):
        since = {}
    return lambda version: [name for name, first in since.items() if first <= version < _OF_ONE]


def _of_several_axes(model: Model) -> bool:
    """Whether an operator takes several axes together, or nothing says how many it takes."""
    scopes = list(scopes_of(model.proto)[0].inner())
    found = [(s, node) for s in scopes for node in s.body.node if node.op_type in _OF_SEVERAL and not domain(node)]
    found = [(scope, node) for scope, node in found if attribute(node, "axis", 1) != -1]
    if not found:
        return False
    from onnxprune.runtime.conversion import types_of

    types = types_of(model)
    for scope, node in found:
        held = types.get(scope.path + node.output[0])
        known = held is not None and held.tensor_type.HasField("shape")
        if held is None or not known or attribute(node, "axis", 1) != len(held.tensor_type.shape.dim) - 1:
            return True
    return False


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

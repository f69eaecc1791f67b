"""The opsets that forms want, and the model raised to one of them where that is proven harmless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxprune.encodings import GRAPH, Sparse, Values
from onnxprune.encodings.candidates import EXACT, encodable, may_lose
from onnxprune.encodings.graph.fusion import readers_of
from onnxprune.encodings.values.base import DEQUANTISE_AXIS, INT4
from onnxprune.encodings.values.integers import Int4
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.change import Change
from onnxprune.runtime.opset import raise_to

_WITHOUT_GAPS = ("coo", "dense", "bitmask")


def raise_for(model: Model, forms: Iterable[tuple[Weight, Values | None]], encoding: str) -> Change:
    """Raise the model as far as the forms want, where its outputs stay the same; else to the next best opset.

    Args:
        model: the model.
        forms: its weights, and the form of each; None: whatever the loss allows.
        encoding: see `Encoder`.
    """
    change, before, refusal = Change(), model.opset, ""
    wanted = {version for version in _wanted(model, forms, encoding) if version > before}
    for version in sorted(wanted, reverse=True):
        refusal = raise_to(model, version)
        if not refusal:
            change.modified = True
            change.notes.append(f"the opset was raised from {before} to {version}, and the outputs stayed the same")
            return change
    if refusal:
        change.notes.append(f"the opset stays at {before}: {refusal}")
    return change


def _wanted(model: Model, forms: Iterable[tuple[Weight, Values | None]], encoding: str) -> Iterator[int]:
    """Opsets at which some weight gets a better form."""
    if model.opset >= INT4:
        return
    gaps = GRAPH["flat"].opset
    for weight, asked in forms:
        if not encodable(weight):
            continue
        form = asked if may_lose(weight) else EXACT
        if isinstance(form, Int4) and readers_of(weight):
            yield INT4
        if (form is None or form.opset(fused=True) >= DEQUANTISE_AXIS) and readers_of(weight):
            yield DEQUANTISE_AXIS
        if form is None or form.opset(fused=False) > model.opset:
            yield gaps
        elif model.opset < gaps and encoding not in _WITHOUT_GAPS:
            sparse = Sparse.of(weight.chunked(model), weight.zero_value)
            if GRAPH["flat"].payload(sparse) < min(GRAPH[n].payload(sparse) for n in ("bitmask", "dense")):
                yield gaps

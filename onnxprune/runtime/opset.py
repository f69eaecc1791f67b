"""Raise a model's opset where running it proves that nothing changes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.runtime.conversion import convert
from onnxprune.runtime.session import Feeds, as_written, equal, open_session, run
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

_IN_MEMORY = 256 << 20  # bytes of a model that is run without a file
_SAMPLES, _NUMBERS = 4, 4096  # samples at the most, and the numbers in them that are enough


def raise_to(model: Model, version: int) -> str:
    """Raise the default opset; returns why it was not done, or an empty string.

    Nodes that read otherwise under the new version are rewritten: the model is accepted only if ONNX Runtime loads it
    and its outputs on synthesised inputs are equal bit for bit, with the nodes as they stand: what an optimiser makes
    of them is no matter of the opset.
    """
    if model.proto.functions:
        return "the model has functions with opsets of their own"
    raised = model.copy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            session = open_session(_source(model, path), "it", as_written())
            made = synthesise(model, session, _SAMPLES, realistic=False)
            feeds = _enough(made.feeds)
            reference = [made.outputs, *(run(session, feed) for feed in feeds[1:])]
            del session
            branched = convert(raised, version)
            if branched:
                return (
                    f"{branched[0]} in a branch reads otherwise under opset {version}, and no run may take the branch"
                )
            session = open_session(_source(raised, path), "it", as_written())
            if equal(reference, [run(session, feed) for feed in feeds]):
                model.proto = raised.proto
                return ""
            refusal = f"under opset {version} its outputs differ"
        except CannotSynthesise as error:
            refusal = f"no inputs were found to check the change with ({error})"
        except RuntimeFailure as error:
            refusal = str(error)
    return refusal


def _source(model: Model, path: Path) -> bytes | Path:
    """The model's bytes, or the path where they are written because they are many."""
    data = model.data(_IN_MEMORY)
    if data is None:
        model.write(path)
    return path if data is None else data


def _enough(feeds: Sequence[Feeds]) -> Sequence[Feeds]:
    """The first samples, until they hold enough numbers: an image does, a few indices do not."""
    sizes = np.cumsum([sum(np.size(array) for array in feed.values()) for feed in feeds])
    return feeds[: 1 + int(np.searchsorted(sizes, _NUMBERS))]

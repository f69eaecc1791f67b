"""Raise a model's opset where running it proves that nothing changes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.runtime.conversion import convert
from onnxprune.runtime.session import as_written, equal, feedable, open_session, run
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

if TYPE_CHECKING:
    import onnxruntime as ort

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
    raised, beside = model.copy(), _beside(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            session = _session(model, beside, path)
            made = synthesise(model, session, _SAMPLES, realistic=False, numbers=_NUMBERS)
            del session
            branched = convert(raised, version)
            if branched:
                return (
                    f"{branched[0]} in a branch reads otherwise under opset {version}, and no run may take the branch"
                )
            session = _session(raised, beside, path)  # the same weights
            if equal(made.outputs, [run(session, feed) for feed in made.feeds]):
                model.proto = raised.proto
                return ""
            refusal = f"under opset {version} its outputs differ"
        except CannotSynthesise as error:
            refusal = f"no inputs were found to check the change with ({error})"
        except RuntimeFailure as error:
            refusal = str(error)
    return refusal


def _beside(model: Model) -> dict[str, Array] | None:
    """The large initializers by name, as ONNX Runtime can be given them beside the graph; None where it cannot."""
    arrays = model.large_initializers() if model.payloads.nbytes <= _IN_MEMORY else None
    if arrays is None or not all(map(feedable, arrays.values())):
        return None
    return {name: np.require(array, requirements=["C", "ALIGNED"]) for name, array in arrays.items()}


def _session(model: Model, beside: dict[str, Array] | None, path: Path) -> ort.InferenceSession:
    """A session of the model as it stands, from memory or by way of the path; `beside` stays as long as it does."""
    if beside is not None:
        return open_session(model.proto.SerializeToString(), "it", as_written(beside))
    model.write(path)
    return open_session(path, "it", as_written())

"""Raise a model's opset where running it proves that nothing changes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.runtime.conversion import convert
from onnxprune.runtime.session import equal, open_session, run_all
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

_SAMPLES = 2


def raise_to(model: Model, version: int) -> str:
    """Raise the default opset; returns why it was not done, or an empty string.

    Nodes that read otherwise under the new version are rewritten: the model is accepted only if ONNX Runtime loads it
    and its outputs on synthesised inputs are equal bit for bit.
    """
    if model.proto.functions:
        return "the model has functions with opsets of their own"
    raised = model.copy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.write(path)
        try:
            session = open_session(path)
            made = synthesise(model, session, _SAMPLES, realistic=False)
            del session
            branched = convert(raised, version)
            if branched:
                return (
                    f"{branched[0]} in a branch reads otherwise under opset {version}, and no run may take the branch"
                )
            raised.write(path)
            if equal(made.outputs, run_all(path, made.feeds)):
                model.proto = raised.proto
                return ""
            refusal = f"under opset {version} its outputs differ"
        except CannotSynthesise as error:
            refusal = f"no inputs were found to check the change with ({error})"
        except RuntimeFailure as error:
            refusal = str(error).replace(str(path), "it")
    return refusal

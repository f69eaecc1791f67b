"""onnxprune: prune ONNX models, and store what is left in files that any ONNX Runtime decodes by itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OnnxPruneError

if TYPE_CHECKING:
    from onnxprune.api import (
        compat,
        compress,
        costs,
        decode,
        encode,
        inspect,
        load,
        pack,
        passes,
        prune,
        save,
        session,
        strip,
        transform,
        unpack,
        verify,
    )  # fmt: skip
    from onnxprune.batch import Batch
    from onnxprune.html import write_report
    from onnxprune.iteration import iterate
    from onnxprune.layer_costs import Costs
    from onnxprune.many import compress_many
    from onnxprune.maskfile import MaskFile
    from onnxprune.model.model import Model
    from onnxprune.result import Result
    from onnxprune.retrain import apply_masks, check_masks, export_masks, read_masks, update
    from onnxprune.rounds import Iteration

# Loaded when first used: `import onnxprune` and `onnxprune --help` do not wait for onnx and onnxruntime.
_HOMES = dict.fromkeys(
    (
        "compat",
        "compress",
        "costs",
        "decode",
        "encode",
        "inspect",
        "load",
        "pack",
        "passes",
        "prune",
        "save",
        "session",
        "strip",
        "transform",
        "unpack",
        "verify",
    ),
    "onnxprune.api",
)
_HOMES |= dict.fromkeys(("apply_masks", "check_masks", "export_masks", "read_masks", "update"), "onnxprune.retrain")
_HOMES |= {"Batch": "onnxprune.batch", "compress_many": "onnxprune.many"}
_HOMES |= {"Iteration": "onnxprune.rounds", "iterate": "onnxprune.iteration", "write_report": "onnxprune.html"}
_HOMES |= {
    "Costs": "onnxprune.layer_costs",
    "MaskFile": "onnxprune.maskfile",
    "Model": "onnxprune.model.model",
    "Result": "onnxprune.result",
}

__all__ = [
    "Batch", "Costs", "Iteration", "MaskFile", "Model", "OnnxPruneError", "Result", "apply_masks", "check_masks",
    "compat", "compress", "compress_many", "costs", "decode", "encode", "export_masks", "inspect", "iterate",
    "load", "pack", "passes", "prune", "read_masks", "save", "session", "strip", "transform", "unpack", "update",
    "verify", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""onnxprune: prune ONNX models, and store what is left in files that any ONNX Runtime decodes by itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OnnxPruneError

if TYPE_CHECKING:
    from onnxprune.api.compress import compress, decode, encode, prune, strip
    from onnxprune.api.files import load, pack, save, session, unpack
    from onnxprune.api.inspect import compat, costs, decoding, expanded, inspect
    from onnxprune.api.mask_files import apply_masks, check_masks, export_masks, read_masks, update
    from onnxprune.api.result import Result
    from onnxprune.api.transform import transform
    from onnxprune.api.verify import verify
    from onnxprune.batch.compress_many import compress_many
    from onnxprune.batch.results import Batch
    from onnxprune.demo.write import write_demo
    from onnxprune.layer_costs.costs import Costs
    from onnxprune.layer_costs.decoding import Decoding
    from onnxprune.masks.file import MaskFile
    from onnxprune.model.model import Model
    from onnxprune.pipeline.registry import passes
    from onnxprune.report.html.write import write_report
    from onnxprune.retraining.iterate import iterate
    from onnxprune.retraining.results import Iteration

# Loaded when first used: `import onnxprune` and `onnxprune --help` do not wait for onnx and onnxruntime.
_EXPORTS = {
    "onnxprune.api.compress": ("compress", "decode", "encode", "prune", "strip"),
    "onnxprune.api.files": ("load", "pack", "save", "session", "unpack"),
    "onnxprune.api.inspect": ("compat", "costs", "decoding", "expanded", "inspect"),
    "onnxprune.api.mask_files": ("apply_masks", "check_masks", "export_masks", "read_masks", "update"),
    "onnxprune.api.result": ("Result",),
    "onnxprune.api.transform": ("transform",),
    "onnxprune.api.verify": ("verify",),
    "onnxprune.batch.compress_many": ("compress_many",),
    "onnxprune.batch.results": ("Batch",),
    "onnxprune.demo.write": ("write_demo",),
    "onnxprune.layer_costs.costs": ("Costs",),
    "onnxprune.layer_costs.decoding": ("Decoding",),
    "onnxprune.masks.file": ("MaskFile",),
    "onnxprune.model.model": ("Model",),
    "onnxprune.pipeline.registry": ("passes",),
    "onnxprune.report.html.write": ("write_report",),
    "onnxprune.retraining.iterate": ("iterate",),
    "onnxprune.retraining.results": ("Iteration",),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "Batch", "Costs", "Decoding", "Iteration", "MaskFile", "Model", "OnnxPruneError", "Result", "apply_masks",
    "check_masks", "compat", "compress", "compress_many", "costs", "decode", "decoding", "encode",
    "expanded", "export_masks", "inspect", "iterate", "load", "pack", "passes", "prune", "read_masks", "save",
    "session", "strip", "transform", "unpack", "update", "verify", "write_demo", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What a person reads on a terminal, and what a program reads in a file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxprune.report.facts import check_place, to_json, write_json, write_json_lines

if TYPE_CHECKING:
    from onnxprune.report.terminal.batches import show_batch
    from onnxprune.report.terminal.inspections import (
        show_compatibility,
        show_costs,
        show_curves,
        show_decoding,
        show_inspection,
    )
    from onnxprune.report.terminal.results import show_deviation, show_result
    from onnxprune.report.terminal.retraining import show_iteration, show_masks
    from onnxprune.report.terminal.tables import percent, shortened, size

# Loaded when first used: what a command does not show, it does not wait for.
_EXPORTS = {
    "batches": ("show_batch",),
    "inspections": ("show_compatibility", "show_costs", "show_curves", "show_decoding", "show_inspection"),
    "results": ("show_deviation", "show_result"),
    "retraining": ("show_iteration", "show_masks"),
    "tables": ("percent", "shortened", "size"),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "check_place", "percent", "shortened", "show_batch", "show_compatibility", "show_costs", "show_curves",
    "show_decoding", "show_deviation", "show_inspection", "show_iteration", "show_masks", "show_result", "size",
    "to_json", "write_json", "write_json_lines",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune.report.terminal' has no attribute '{name}'")
    return getattr(import_module(f"onnxprune.report.terminal.{_HOMES[name]}"), name)

"""What a person reads on a terminal, and what a program reads in a file."""

from __future__ import annotations

from onnxprune.report.facts import check_place, to_json, write_json, write_json_lines
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

__all__ = [
    "check_place", "percent", "shortened", "show_batch", "show_compatibility", "show_costs", "show_curves",
    "show_decoding", "show_deviation", "show_inspection", "show_iteration", "show_masks", "show_result", "size",
    "to_json", "write_json", "write_json_lines",
]  # fmt: skip

"""The word for what a runtime did with a case.

once      the weight is decoded while loading, the outputs are those of the decoded model
fused     a kernel reads the small integers
each run  the weight is decoded at every inference, or the kernel takes as long as that
wrong     the outputs are not those of the decoded model
expanded  the file that the runtime wants is as large as that of the decoded model
refused   the encoded model does not load or run
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

CLOSE, CLOSE_INTEGERS = 1e-4, 0.02  # relative error; kernels that read integers may round the activations too
SOURCE = 2e-3  # from onnxruntime's outputs, beyond which a runtime does not compute the decoded model
EXPANDED = 0.75  # of the decoded model's file
SLOW, SLOW_SECONDS = 2.0, 10e-6  # times as long as the decoded model, and so much longer
UNREAD, EACH_RUN = "decoded model refused", "each run"
_KERNELS = ("MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")


@dataclass(frozen=True)
class Seen:
    """What an environment did with a case: the word, and why it is refused or wrong."""

    word: str
    reason: str = ""


def outcome(fused: bool, found: dict[str, Any], slow: float = SLOW) -> Seen:
    """The word for what the runner found.

    Args:
        fused: whether the case has integers for a kernel.
        found: what the runner said.
        slow: times as long as the decoded model, beyond which a weight counts as decoded at each run.
    """
    if not found.get("decoded_error", 1.0) <= SOURCE:
        return Seen(UNREAD, found.get("reason", "other outputs than onnxruntime's"))
    if "own_error" not in found:
        return Seen("refused", found["reason"])
    decoding = _decoding(found)
    integers = fused or (decoding is not None and decoding[1])  # some runtimes take what is to be decoded as such
    if not min(found["own_error"], _far(found)) <= (CLOSE_INTEGERS if integers else CLOSE):
        return Seen("wrong", f"relative error {found['own_error']:.2g}")
    if "reason" in found:
        return Seen("refused", found["reason"])
    stored = [facts.get("stored") for facts in facts_of(found)]
    if stored[0] is not None and stored[0] > EXPANDED * stored[1]:
        return Seen("expanded", f"{stored[0] / stored[1]:.2f} of the dense model's file")
    if decoding is None:
        times = found["encoded_run"] / found["decoded_run"]
        if times > slow and found["encoded_run"] - found["decoded_run"] > SLOW_SECONDS:
            return Seen(EACH_RUN, f"{times:.1f} times as long as the decoded model")
        return Seen("fused" if fused and found["own_error"] > CLOSE else "once")
    left, read = decoding
    return Seen(EACH_RUN, ", ".join(sorted(left))) if left else Seen("fused" if read else "once")


def facts_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the adapter tells of the encoded model, and of the decoded one."""
    return [found.get(f"{kind}_facts", {}) for kind in ("encoded", "decoded")]


def _far(found: dict[str, Any]) -> float:
    """The error against onnxruntime, where repeated loads did not differ from each other."""
    return found["encoded_error"] if found["own_error"] <= 2 * SOURCE else float("inf")


def _decoding(found: dict[str, Any]) -> tuple[Counter[str], bool] | None:
    """What is computed from constants at every run beyond the decoded model, and whether a kernel reads integers."""
    facts = facts_of(found)
    if "optimised" in facts[0]:
        facts = [optimised(Path(each["optimised"])) for each in facts]
    if "decoding" not in facts[0]:
        return None
    return Counter(facts[0]["decoding"]) - Counter(facts[1]["decoding"]), facts[0]["fused"]


def optimised(path: Path) -> dict[str, Any]:
    """The nodes of an optimised graph that compute from constants, and whether a kernel reads integers."""
    graph = onnx.load(path, load_external_data=False).graph
    fixed = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    decoding, fused = [], False
    for node in graph.node:
        named = [name for name in node.input if name]
        if node.op_type == "Constant" or (named and fixed.issuperset(named)):
            fixed.update(node.output)
            decoding += [] if node.op_type == "Constant" else [node.op_type]
        fused |= node.op_type in _KERNELS
    return {"decoding": decoding, "fused": fused}

"""Deviations in words, for outputs whose numbers are not the thing to say.

The agreement of answers says something of accuracy on real samples alone: on synthesised inputs it was wrong both ways,
so there it is not told.
"""

from __future__ import annotations

import math
from typing import Any

from onnxprune.api.result import Deviation
from onnxprune.runtime.deviation import CLOSE_DB, FAR_DB


def inputs(deviation: Deviation) -> str:
    """What the models ran on, and how many of these."""
    count, several = deviation.samples, "" if deviation.samples == 1 else "s"
    if deviation.source == "data":
        return f"{count} sample{several} of --data"
    kinds = "; ".join(dict.fromkeys(deviation.input_kinds.values()))
    return f"{count} synthesised input{several} ({f'{kinds}: --data says more' if kinds else 'none are needed'})"


def verdict(output: dict[str, Any], source: str) -> str | None:
    """What became of an output, from the facts of its `OutputDeviation`; None where its numbers say it.

    Args:
        output: the facts.
        source: of the inputs, as in `Deviation`.
    """
    if output["differs"]:
        return str(output["differs"])
    if output["max_abs"] == 0:
        return f"says nothing: {output['says_nothing']} in both" if output["says_nothing"] else "equal"
    if output["classes"] and output["cosine"] is None:
        agreed = output["top1_agreement"]
        share = f"agreement {100 * agreed:.2f} %" if source == "data" else f"{100 * (1 - agreed):.2f} % differ"
        return share + remarks(output)
    return None


def remarks(output: dict[str, Any]) -> str:
    """What to know beside the numbers: it follows them."""
    said = f", {output['non_finite']:,} entries NaN or Inf in both" if output["non_finite"] else ""
    return said + (f", the original is {output['says_nothing']}" if output["says_nothing"] else "")


def sqnr(output: dict[str, Any]) -> str:
    """The SQNR of an output, and which part of it that is of where it has parts; "-" without a number."""
    if output["sqnr_db"] is None:
        return "-"
    return f"{output['sqnr_db']:.1f} dB" + (f" ({output['part']})" if output["part"] else "")


def worst_sqnr(outputs: list[dict[str, Any]]) -> float | None:
    """Of the output that differs most, in dB; minus infinity without a number, None where all are equal or classes."""
    unequal = [
        o for o in outputs if o["max_abs"] != 0 and (o["differs"] or not o["classes"] or o["cosine"] is not None)
    ]
    return min((-math.inf if o["sqnr_db"] is None else o["sqnr_db"] for o in unequal), default=None)


def far_off(deviation: Deviation) -> str:
    """What there is to say where hardly anything is left of an output; empty elsewhere."""
    worst = worst_sqnr(deviation.outputs)
    return "" if worst is None or worst >= FAR_DB else f"outputs are far off: SQNR {worst:.1f} dB"


def concern(deviation: Deviation) -> str:
    """What to do where outputs on synthesised inputs are far off, or all outputs say nothing; empty elsewhere."""
    if deviation.outputs and all(output["says_nothing"] and output["max_abs"] == 0 for output in deviation.outputs):
        samples = "other samples" if deviation.source == "data" else "--data with real samples"
        return f"no output says anything of the result: give {samples}"
    worst = worst_sqnr(deviation.outputs) if deviation.source == "synthetic" else None
    if worst is None or worst >= CLOSE_DB:
        return ""
    return f"SQNR below {CLOSE_DB:g} dB: give --data to see whether the answers hold, or a lower --loss or --sparsity"

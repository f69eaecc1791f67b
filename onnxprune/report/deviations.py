"""Deviations in words, for outputs whose numbers are not the thing to say."""

from __future__ import annotations

from typing import Any


def verdict(output: dict[str, Any]) -> str | None:
    """What became of an output, from the facts of its `OutputDeviation`; None where its numbers say it."""
    if output["differs"]:
        return str(output["differs"])
    if output["max_abs"] == 0:
        return f"says nothing: {output['says_nothing']} in both" if output["says_nothing"] else "equal"
    if output["classes"] and output["cosine"] is None:
        return f"agreement {100 * output['top1_agreement']:.2f} %{remarks(output)}"
    return None


def remarks(output: dict[str, Any]) -> str:
    """What to know beside the numbers: it follows them."""
    said = f", {output['non_finite']:,} entries NaN or Inf in both" if output["non_finite"] else ""
    return said + (f", the original is {output['says_nothing']}" if output["says_nothing"] else "")

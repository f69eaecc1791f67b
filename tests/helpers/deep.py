"""Nodes one behind the other, as many as no recursion survives, and ways that meet more often than anyone counts."""

from __future__ import annotations

from itertools import pairwise

import onnx

from tests.helpers.builders import node

LENGTH, LEVELS = 5000, 40


def chain(kind: str, first: str, last: str, *others: str, length: int = LENGTH, **attributes) -> list[onnx.NodeProto]:
    """Nodes of which each reads the one before it, and others."""
    names = [first, *(f"{last}{n}" for n in range(length - 1)), last]
    return [node(kind, [read, *others], [made], **attributes) for read, made in pairwise(names)]


def doubled(kind: str, first: str, last: str, **attributes) -> list[onnx.NodeProto]:
    """Nodes of which each reads the one before it twice."""
    names = [first, *(f"{last}{n}" for n in range(LEVELS - 1)), last]
    return [node(kind, [read, read], [made], **attributes) for read, made in pairwise(names)]


def joined(first: str, last: str, start: str, end: str, levels: int = LEVELS) -> list[onnx.NodeProto]:
    """What `doubled` does with Concat, behind each of which a Slice cuts off what came twice."""
    names = [first, *(f"{last}{n}" for n in range(levels - 1)), last]
    found = []
    for read, cut in pairwise(names):
        found.append(node("Concat", [read, read], [f"{cut} x2"], axis=0))
        found.append(node("Slice", [f"{cut} x2", start, end], [cut]))
    return found

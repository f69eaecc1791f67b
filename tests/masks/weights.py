"""Weights of models, and models under the names of another exporter."""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.model.discovery import find
from onnxprune.model.model import Model

SIZES = (32, 64, 16)


def values(path) -> dict[str, np.ndarray]:
    """Every weight of a file by name."""
    opened = Model.load(path)
    return {w.name: w.array(opened).copy() for w in find(opened)}


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model as another exporter would name it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    table = {t.name: f"onnx::{i}" for i, t in enumerate(copy.graph.initializer)}
    for tensor in copy.graph.initializer:
        tensor.name = table[tensor.name]
    for each in copy.graph.node:
        each.input[:] = [table.get(n, n) for n in each.input]
    order = sorted(copy.graph.initializer, key=lambda t: t.name, reverse=True)  # and in another order
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in order]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy

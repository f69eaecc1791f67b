"""Convolutions between QuantizeLinear and DequantizeLinear, which ONNX Runtime computes in integers.

Activations are uint8. Weights are int8 on a grid of 129 steps, a scale for each output channel: processors without
VNNI add two products of 8 bits in 16 bits with saturation, and 2 * 255 * 64 is the most that fits there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnxprune.activations.calibration import Grid
from onnxprune.activations.editing import Editor
from onnxprune.activations.regions import IntegerNode
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model

OPSET = 13  # gave DequantizeLinear scales for channels
STEPS = 64  # of a weight on each side of 0
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def quantise(model: Model, found: Sequence[IntegerNode], grids: Mapping[str, Grid], editor: Editor) -> None:
    """Round what nodes read and give, and the weights of convolutions.

    Args:
        model: the model, of opset 13 or higher.
        found: nodes of its main graph, in the order of the graph.
        grids: of `values_of` them, by name.
        editor: of the main graph.
    """
    rounded: dict[str, str] = {}  # what stands for a value once it was rounded
    constants: dict[str, tuple[str, str]] = {}
    for each in found:
        node, output = each.node, each.output
        if each.weight is not None:
            read = node.input[0]
            if read not in rounded:
                constants[read] = _of_grid(editor, read, grids[read])
                rounded[read] = editor.fresh(f"{read}.rounded")
                editor.before(node, _pair(editor, read, rounded[read], constants[read]))
            node.input[0] = rounded[read]
            weight = editor.fresh(f"{node.input[1]}.rounded")
            scales = _of_weight(editor, node.input[1], each.weight.array(model))
            editor.before(node, _pair(editor, node.input[1], weight, scales, axis=0))
            node.input[1] = weight
        if node.op_type == "Sum":  # of two, for which there is no kernel
            node.op_type = "Add"
        constants[output] = constants[node.input[0]] if each.same_grid else _of_grid(editor, output, grids[output])
        node.output[0] = editor.fresh(f"{output}.exact")
        if each.activation is not None:
            editor.remove([each.activation])
        editor.behind(node, _pair(editor, node.output[0], output, constants[output]))
        rounded[output] = output


def values_of(found: Iterable[IntegerNode]) -> list[str]:
    """The values whose ranges `quantise` wants."""
    read = [each.node.input[0] for each in found if each.weight is not None]
    return list(dict.fromkeys([*read, *(each.output for each in found if not each.same_grid)]))


def _pair(editor: Editor, value: str, result: str, grid: tuple[str, str], **axis: Any) -> list[NodeProto]:
    """The two nodes that round a value."""
    integers = editor.fresh(f"{value}.integers")
    return [
        helper.make_node(QUANTIZE, [value, *grid], [integers], name=editor.fresh(f"{value}.quantize"), **axis),
        helper.make_node(DEQUANTIZE, [integers, *grid], [result], name=editor.fresh(f"{value}.dequantize"), **axis),
    ]


def _of_grid(editor: Editor, value: str, grid: Grid) -> tuple[str, str]:
    """The names of scale and zero point of an activation."""
    return editor.constant(f"{value}.scale", np.asarray(grid.scale)), editor.constant(
        f"{value}.zero", np.asarray(grid.zero)
    )


def _of_weight(editor: Editor, value: str, array: Array) -> tuple[str, str]:
    """The names of scales and zero points of a weight [outputs, ...]."""
    largest = np.abs(array).reshape(len(array), -1).max(1)
    scales = np.where(largest > 0, largest / STEPS, 1).astype(np.float32)
    return editor.constant(f"{value}.scale", scales), editor.constant(f"{value}.zero", np.zeros(len(array), np.int8))

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
from onnxprune.model.model import Model

OPSET = 13  # gave DequantizeLinear scales for channels
STEPS = 64  # of a weight on each side of 0
_LARGEST_BIAS = 2**30  # in int32, with as much room again for the products
_LEAST_STEP = 1e-37  # of an output's sum: float32 has its inverse
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
            scales = _of_weight(editor, model, each, grids[read])
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


def _of_weight(editor: Editor, model: Model, each: IntegerNode, grid: Grid) -> tuple[str, str]:
    """The names of scales and zero points of a convolution's weight [outputs, ...].

    ONNX Runtime rounds its bias to int32, in steps of both scales. So a channel of tiny numbers gets a larger scale,
    which its bias fits into, and one of zeros the scale at which its bias is rounded least.
    """
    assert each.weight is not None
    value, array = each.node.input[1], each.weight.array(model)
    least = _LEAST_STEP / min(float(grid.scale), 1.0)
    scales = np.maximum(np.abs(array).reshape(len(array), -1).max(1).astype(np.float64) / STEPS, least)
    bias = each.weight.scope.constant(each.node.input[2]) if len(each.node.input) > 2 else None
    if bias is not None:
        scales = np.maximum(scales, np.abs(model.array(bias)) / (float(grid.scale) * _LARGEST_BIAS))
    zeros = np.zeros(len(array), np.int8)
    return editor.constant(f"{value}.scale", scales.astype(np.float32)), editor.constant(f"{value}.zero", zeros)

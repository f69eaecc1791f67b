"""What a run of a model costs: floating-point operations, counted from the shapes that its layers really met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from onnxprune.model.model import Model
from onnxprune.model.operators import attribute
from onnxprune.model.scopes import scopes_of
from onnxprune.runtime.session import Feeds, as_written, profile, run

ShapeList = list[list[int]]
KERNEL = "_kernel_time"  # what the profiler adds to a node's name


@dataclass(frozen=True)
class Layer:
    """One execution of a node: the shapes that it read and made."""

    kind: str
    inputs: ShapeList
    outputs: ShapeList
    name: str = ""
    equation: str = ""  # of an Einsum

    @property
    def flops(self) -> int:
        """Twice its multiplications (Han et al. 2015 count so); 0 for what is no layer with weights or matrices."""
        if self.kind == "Einsum":
            return 2 * _summed(self.equation, self.inputs)
        count = _MULTIPLICATIONS.get(self.kind)
        return 2 * count(self.inputs, self.outputs) if count is not None else 0


def layers(path: Path, feeds: Feeds) -> list[Layer]:
    """Every node that one run executes, in the branches that were taken and as often as loops repeat them.

    The graph runs as it is written, without ONNX Runtime's optimisation, under its profiler: matrices laid out for a
    kernel would have no shape any more.

    Raises:
        RuntimeFailure: the model does not load or run.
    """
    events = profile(path, lambda session: run(session, feeds), as_written())
    nodes = [(e["name"], e["args"]) for e in events if e.get("cat") == "Node" and "output_type_shape" in e["args"]]
    equations = _equations(path) if any(n["op_name"] == "Einsum" for _, n in nodes) else {}
    found = []
    for name, n in nodes:
        own = name.removesuffix(KERNEL)
        shapes = _shapes(n["input_type_shape"]), _shapes(n["output_type_shape"])
        found.append(Layer(n["op_name"], *shapes, own, equations.get(own, "")))
    return found


def _equations(path: Path) -> dict[str, str]:
    """What each Einsum sums, by the name of its node."""
    scopes = (scope for top in scopes_of(Model.load(path).proto) for scope in top.inner())
    nodes = (node for scope in scopes for node in scope.body.node if node.op_type == "Einsum")
    return {node.name: attribute(node, "equation", b"").decode() for node in nodes}


def _summed(equation: str, inputs: ShapeList) -> int:
    """Multiplications of a product of two: one for each place of all labels together; 0 for other equations."""
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or len(inputs) != 2:
        return 0
    sizes: dict[str, int] = {}
    for labels, shape in zip(operands, inputs, strict=True):
        first, dots, last = labels.partition("...")
        spread = len(shape) - len(first) - len(last)
        if spread and not dots:
            return 0
        between = [f"...{spread - axis}" for axis in range(spread)]  # they meet from the right
        for label, size in zip([*first, *between, *last], shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return prod(sizes.values())


def _shapes(described: list[dict[str, Any]]) -> ShapeList:
    return [next(iter(shape.values()), []) for shape in described]


def _window(weight: int) -> Callable[[ShapeList, ShapeList], int]:
    """A convolution: each output entry sums a kernel over the inputs of its group."""
    return lambda inputs, outputs: prod(outputs[0]) * prod(inputs[weight][1:])


def _transposed_window(inputs: ShapeList, outputs: ShapeList) -> int:
    """A transposed convolution: each input entry goes through a kernel to the outputs of its group."""
    return prod(inputs[0]) * prod(inputs[1][1:])


def _product(inputs: ShapeList, outputs: ShapeList) -> int:
    return prod(outputs[0]) * (inputs[0][-1] if inputs[0] else 1)


def _gemm(inputs: ShapeList, outputs: ShapeList) -> int:
    rows = outputs[0][0]  # the left side may be transposed
    return prod(outputs[0]) * (prod(inputs[0]) // max(rows, 1))


def _recurrent(inputs: ShapeList, outputs: ShapeList) -> int:
    return prod(inputs[0][:2]) * (prod(inputs[1]) + prod(inputs[2]))


def _transposable(inputs: ShapeList, outputs: ShapeList) -> int:
    """A product whose left side may be transposed: its axis that the output has not is summed."""
    left = inputs[0]
    return prod(outputs[0]) * (left[-2] if len(left) > 1 and left[-2] != outputs[0][-2] else left[-1])


def _attention(inputs: ShapeList, outputs: ShapeList) -> int:
    """Scores and sums over what is attended to, which a cache makes longer, and the projection where it holds one."""
    queries, other = inputs[0], inputs[1] if len(inputs) > 1 else []
    projection = prod(queries[:-1]) * prod(other) if len(other) == 2 else 0
    cache = next((shape for shape in outputs[1:] if len(shape) in (4, 5)), [])
    keys = cache[-2] if cache else other[-2] if len(other) in (3, 4) else queries[1]
    return projection + 2 * prod(outputs[0]) * keys


_MULTIPLICATIONS: dict[str, Callable[[ShapeList, ShapeList], int]] = {
    "Conv": _window(1),
    "ConvInteger": _window(1),
    "QLinearConv": _window(3),
    "ConvTranspose": _transposed_window,
    "Gemm": _gemm,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "FusedConv": _window(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _transposable,
    "GemmFastGelu": _product,
    "QGemm": _gemm,
    "MatMulIntegerToFloat": _product,
    "DynamicQuantizeMatMul": _product,
    "MatMulNBits": _product,
    "FusedMatMulActivation": _transposable,
    "TransposeMatMul": _transposable,
    "ConvTransposeWithDynamicPads": _transposed_window,
    "Attention": _attention,
    "QAttention": _attention,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
}
COUNTED = frozenset({*_MULTIPLICATIONS, "Einsum"})

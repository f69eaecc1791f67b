"""Builder: the constants and nodes that write one encoded weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from onnxprune.core.dtypes import Array
from onnxprune.model.encoded_names import Mark

Parts = dict[str, Array]


@dataclass
class Builder:
    """Collects the nodes and constants that decode one weight.

    Every name that it makes begins with `prefix`; the last node writes `output` and carries `mark`
    as its name, which is how `decode` finds the group again. `inner` stands between the prefix and the names of arrays
    that belong to a part of the weight, see `named`.
    """

    prefix: str
    output: str
    mark: Mark
    opset: int
    constants: Parts = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    declared: list[ValueInfoProto] = field(default_factory=list)
    inner: str = ""

    @contextmanager
    def named(self, part: str) -> Iterator[None]:
        """Call arrays by this and their names meanwhile: they are those of a part of the weight."""
        outer, self.inner = self.inner, self.inner + part
        yield
        self.inner = outer

    def constant(self, name: str, array: Array | np.generic | Sequence[int]) -> str:
        """A stored array; the same name stands for the same array. All parts of a weight share its codebook."""
        made = np.asarray(array)
        own = self.prefix + (name if name == CODEBOOK else self.inner + name)
        kept = self.constants.setdefault(own, made)
        assert kept is made or (kept.dtype == made.dtype and np.array_equal(kept, made)), name
        return own

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output."""
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def declare(self, value: str, element: int, shape: Sequence[int]) -> None:
        """State a shape that inference cannot know: ONNX Runtime from 1.27 on folds no node whose size is unknown."""
        self.declared.append(helper.make_tensor_value_info(value, element, shape))

    def zeros(self, shape: Sequence[int], fill_value: Array) -> str:
        """A dense tensor of the fill value.

        The value is written out also where it is the default: runtimes that take the default for another type refuse
        the model, and MNN 3.6.1 computes with memory that nothing wrote.
        """
        value = numpy_helper.from_array(fill_value.reshape(1))
        return self.op("ConstantOfShape", [self.constant("size", np.array(shape, np.int64))], value=value)

    def scatter(self, into: str, indices: str, values: str, axis: int) -> str:
        """Write values at indices along an axis.

        Args:
            into: the name of the tensor.
            indices: the name of the indices, of the shape of the values.
            values: the name of the values.
            axis: the axis.

        Returns:
            The name of the result.
        """
        kind = "ScatterElements" if self.opset >= SCATTER_ELEMENTS else "Scatter"
        return self.op(kind, [into, indices, values], **({"axis": axis} if axis else {}))

    def look_up(self, codebook: Array, codes: str) -> str:
        """The values of codes.

        A Gather that reads floats from an initializer is an embedding to ONNX Runtime's quantize_dynamic, which would
        quantise the codebook (and cannot load what it makes of float16): an Identity stands between them.
        """
        name = self.constant(CODEBOOK, codebook)
        return self.op("Gather", [self.op("Identity", [name]) if codebook.dtype.kind == "f" else name, codes])

    def reshape(self, value: str, shape: Sequence[int], name: str = "shape") -> str:
        """The same entries in another shape."""
        return self.op("Reshape", [value, self.constant(name, np.array(shape, np.int64))])

    def finish(self) -> None:
        """Let the last node write the weight."""
        self.nodes[-1].output[0] = self.output
        self.nodes[-1].name = str(self.mark)


CODEBOOK = "book"  # the part that holds the values of codes
SCATTER_ELEMENTS = 11  # the opset that renamed Scatter

"""gathered: a table of which Gather reads rows: every row is packed by itself, and decoded behind the Gather.

Nothing is decoded when the model is loaded but the codebook, which becomes one of words: what a word of several codes
stands for lies side by side, and a second Gather looks up all of it. Measured with onnxruntime 1.32 on 128 rows of 384:
0.3 ms at 16 levels, against 1.3 ms for a division and a remainder of each code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.core.override import override
from onnxprune.core.scattered import PIECE
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions.base import Packing
from onnxprune.encodings.positions.digits import DigitLayout
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values.base import Coded

_WORD = 2  # bytes: a codebook of longer words would not fit into any cache
_BOOK_SHARE = 4  # the codebook of words has at most one entry for so many of the table
_BROADCAST = 7  # the opset from which Mul broadcasts


class Gathered(Packing):
    """All values, row by row."""

    name = "gathered"
    opset = 11  # CumSum, and Slice that counts axes from the end

    def fits(self, sparse: Sparse, opset: int) -> bool:
        """Whether a model of this opset has the operators for what the table holds."""
        return len(sparse.shape) == 2 and opset >= (_BROADCAST if sparse.codebook is None else self.opset)

    @override
    def payload(self, sparse: Sparse) -> int:
        rows, width = sparse.shape
        if sparse.codebook is None:
            return sparse.size * sparse.carrier.dtype.itemsize
        return rows * row_layout(len(sparse.codebook), rows, width).nbytes(width) + sparse.codebook.nbytes

    @override
    def pack(self, sparse: Sparse) -> Parts:
        if sparse.codebook is None:
            return digits.pack_values(sparse, sparse.carrier.each(lambda _, part: part), sparse.shape[0])
        layout = row_layout(len(sparse.codebook), *sparse.shape)

        def words(part: Array) -> Array:
            packed = digits.pack_neighbours(part.astype(np.int64), layout, "codes")["codes"]
            return packed[..., 0] if layout.digits > 1 else packed

        parts = digits.pack_neighbours(np.zeros((0, sparse.shape[1]), np.int64), layout, "codes")
        (parts["codes"],) = digits.joined(sparse.carrier.each(lambda _, part: (words(part),)), sparse.shape[0])
        return parts | {"book": sparse.codebook}

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        rows, columns = shape
        for start, stop in ranges(0, rows, max(1, PIECE // max(1, columns))):
            if "book" not in parts:
                values = parts["values"][start:stop]
            else:
                held = parts["codes"][start:stop]
                words = held[..., None] if "powers" in parts else held
                values = parts["book"][digits.unpack({**parts, "codes": words}, "codes")[:, :columns]]
            if values.shape != (stop - start, columns):
                raise ValueError(f"it holds {values.shape} values for rows {start} to {stop} of the shape {shape}")
            yield np.arange(start * columns, stop * columns), values.reshape(-1)

    def shape(self, parts: Mapping[str, Array]) -> tuple[int, ...]:
        """The shape of the table that parts hold."""
        rows, width = (parts["values"] if "values" in parts else parts["codes"]).shape
        if "end" in parts:
            return rows, int(parts["end"][0])
        return rows, width * (parts["powers"].size if "powers" in parts else 1)

    def emit(
        self, build: Builder, parts: Parts, coded: Coded, readers: list[NodeProto], element: int
    ) -> tuple[list[NodeProto], list[list[NodeProto]]]:
        """Make the nodes that decode rows.

        Args:
            build: where nodes and constants go.
            parts: what `pack` returned.
            coded: the table in its value form.
            readers: the nodes that gather rows of it.
            element: the table's element type.

        Returns:
            The nodes that need no row; and for each reader itself, as it is to be, and the nodes behind it.
        """
        wide = TensorProto.DOUBLE if element == TensorProto.DOUBLE else TensorProto.FLOAT
        target = element if coded.scale is None else wide
        held = _held(build, parts)
        book = _codebook(build, parts, target) if "book" in parts else ""
        scale = "" if coded.scale is None else _scale(build, coded.scale, wide)
        before, behind = build.nodes[:], []
        for number, node in enumerate(readers):
            start = len(build.nodes)
            self._rows(build, parts, coded, node, (held, book, scale), (target, element))
            build.nodes[-1].output[0], build.nodes[-1].name = node.output[0], str(build.mark.of_reader(number))
            behind.append(build.nodes[start:])
        return before, behind

    def _rows(
        self, build: Builder, parts: Parts, coded: Coded, node: NodeProto, names: tuple[str, str, str],
        types: tuple[int, int],
    ) -> None:  # fmt: skip
        """The rows of one reader."""
        (held, book, scale), (target, element), ids = names, types, node.input[1]
        build.nodes.append(NodeProto())
        build.nodes[-1].CopyFrom(node)
        rows = build.nodes[-1].output[0] = f"{build.prefix}{len(build.nodes) - 1}"
        build.nodes[-1].input[0] = held
        columns = coded.carrier.shape[1]
        shape = _Shape(build, ids)
        if book:
            rows = build.op("Gather", [book, build.op("Cast", [rows], to=TensorProto.INT32)])
            width = parts["codes"].shape[1] * parts["powers"].size if "powers" in parts else columns
            if width != columns or ("powers" in parts and not coded.view):
                rows = shape.reshape(rows, "row", [width])
            if width != columns:
                ends = [build.constant("start", [0]), build.constant("end", [columns]), build.constant("last", [-1])]
                rows = build.op("Slice", [rows, *ends])
        elif coded.decoded != numpy_dtype(target):
            rows = build.op("Cast", [rows], to=target)
        if coded.scale is None:
            return
        if coded.view:
            rows = shape.reshape(rows, "inside", coded.view[1:])
        if coded.scale.size > 1:
            scale = build.op("Gather", [scale, ids])
        rows = build.op("Mul", [rows, scale])
        if coded.view:
            rows = shape.reshape(rows, "columns", [columns])
        if target != element:
            build.op("Cast", [rows], to=element)


class _Shape:
    """Shapes that begin with that of the ids, whose rank need not be known."""

    def __init__(self, build: Builder, ids: str) -> None:
        self._build, self._ids, self._shape = build, ids, ""

    def reshape(self, value: str, name: str, inner: list[int] | tuple[int, ...]) -> str:
        """The value with the ids' axes and these behind them."""
        self._shape = self._shape or self._build.op("Shape", [self._ids])
        axes = self._build.constant(name, np.array(inner, np.int64))
        return self._build.op("Reshape", [value, self._build.op("Concat", [self._shape, axes], axis=0)])


def row_layout(levels: int, rows: int, width: int) -> DigitLayout:
    """The layout of a row's codes with the fewest bytes; the smallest word among equals."""
    most = max(rows * width // _BOOK_SHARE, 1 << 8)
    fitting = [
        layout
        for layout in digits.layouts_from(levels)
        if layout.dtype.itemsize <= _WORD and (layout.digits == 1 or levels**layout.digits * layout.digits <= most)
    ]
    best = min(fitting, key=lambda layout: layout.nbytes(width))
    return DigitLayout(best.dtype, best.digits, levels)


def _held(build: Builder, parts: Parts) -> str:
    """What the readers read; floats behind an Identity, see `Builder.look_up`."""
    name = "codes" if "book" in parts else "values"
    held = build.constant(name, parts[name])
    return build.op("Identity", [held]) if parts[name].dtype.kind == "f" else held


def _codebook(build: Builder, parts: Parts, target: int) -> str:
    """The codebook in the type that rows need: [levels], or [words, codes of a word]."""
    if "powers" in parts:
        count = int(parts["radix"]) ** parts["powers"].size
        ones = build.zeros([count], np.ones(1, np.int32))
        numbers = build.op("CumSum", [ones, build.constant("axis", np.int32(0))], exclusive=1)
        numbers = build.reshape(numbers, [-1, 1], "flat")
        shifted = build.op("Div", [numbers, build.constant("powers", parts["powers"])])
        book = build.look_up(parts["book"], build.op("Mod", [shifted, build.constant("radix", parts["radix"])]))
    else:
        book = build.constant("book", parts["book"])
        if parts["book"].dtype == numpy_dtype(target):
            return build.op("Identity", [book])
    return book if parts["book"].dtype == numpy_dtype(target) else build.op("Cast", [book], to=target)


def _scale(build: Builder, scale: Array, wide: int) -> str:
    """The scales in the type that is computed with; one for all broadcasts over rows of any rank."""
    name = build.constant("scale", scale.reshape(1) if scale.size == 1 else scale)
    return build.op("Identity", [name]) if scale.dtype == numpy_dtype(wide) else build.op("Cast", [name], to=wide)


GATHERED = Gathered()

"""A network run segment by segment on samples, with what later segments read kept."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from onnxprune.calibration.recording import hidden
from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT_OPERATORS
from onnxprune.reconstruction.segments import Cut, Segment, needed
from onnxprune.runtime.session import Feeds, open_session, run

HELD = 1 << 30  # bytes of values that memory holds; the others lie in files meanwhile


class Values:
    """Values by name for each piece of the samples, in memory and beyond `HELD` in files of a folder."""

    def __init__(self, pieces: Sequence[Feeds], folder: Path) -> None:
        self._held: list[dict[str, Array | Path]] = [dict(piece) for piece in pieces]
        self._folder, self._bytes, self._files = folder, 0, 0

    def __contains__(self, name: str) -> bool:
        """Whether the first piece has the value, and so all."""
        return name in self._held[0]

    def get(self, piece: int, name: str) -> Array:
        """A value of a piece."""
        found = self._held[piece][name]
        return np.load(found) if isinstance(found, Path) else found

    def keep(self, piece: int, name: str, value: Array) -> None:
        """Hold a value."""
        self._bytes += value.nbytes
        if self._bytes > HELD and not value.dtype.hasobject:
            self._bytes -= value.nbytes
            path = self._folder / f"{self._files}.npy"
            self._files += 1
            np.save(path, value)
            self._held[piece][name] = path
        else:
            self._held[piece][name] = value

    @property
    def pieces(self) -> int:
        """How many there are."""
        return len(self._held)

    def drop_all_but(self, names: set[str]) -> None:
        """Let go of the other values."""
        for piece in self._held:
            for name in piece.keys() - names:
                gone = piece.pop(name)
                if isinstance(gone, Path):
                    gone.unlink()
                else:
                    self._bytes -= gone.nbytes


class Replay:
    """One network on its way through the segments."""

    def __init__(self, model: Model, found: Cut, pieces: Sequence[Feeds]) -> None:
        self.model, self._cut = model, found
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-")
        self.values = Values(pieces, Path(self._folder.name))

    def __enter__(self) -> Replay:
        """Its files live until the context ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def part(self, segment: Segment, wanted: Sequence[str]) -> Part:
        """What computes some values of a segment from those that are kept.

        Raises:
            RuntimeFailure: the segment does not run by itself.
        """
        path = Path(self._folder.name) / "segment.onnx"
        with self.model.edited() as proto:
            graph = proto.graph
            fresh = sorted({name for name in wanted if name not in self.values})
            places = needed(graph, self._cut, segment, fresh)
            nodes = [graph.node[place] for place in places]
            read = {name for place in places for name in self._cut.reads[place]}
            made = {name for node in nodes for name in node.output}
            tensors = [t for t in graph.initializer if t.name in read]
            sparse = [t for t in graph.sparse_initializer if t.values.name in read]
            fixed = {t.name for t in tensors} | {t.values.name for t in sparse}
            given = sorted(read - made - fixed)
            for node in nodes:
                if node.op_type in RECURRENT_OPERATORS and not node.output[0] and hidden(node) in fresh:
                    node.output[0] = hidden(node)
            small = helper.make_graph(
                nodes, graph.name, [_declared(name, self.values.get(0, name)) for name in given],
                [ValueInfoProto(name=name) for name in fresh], tensors,
            )  # fmt: skip
            small.sparse_initializer.extend(sparse)
            graph.CopyFrom(small)
            self.model.write(path)
            stored = [name for name in wanted if name in self.values]
            return Part(open_session(path) if fresh else None, self.values, given, fresh, stored)


class Part:
    """A session of a segment."""

    def __init__(
        self, session: Any, values: Values, given: Sequence[str], fresh: Sequence[str], stored: Sequence[str]
    ) -> None:
        self._session, self._values, self._given, self._fresh, self._stored = session, values, given, fresh, stored

    def run(self, piece: int) -> dict[str, Array]:
        """The values that are wanted, for a piece of the samples.

        Raises:
            RuntimeFailure: it does not run, or gives something other than tensors.
        """
        found = {name: self._values.get(piece, name) for name in self._stored}
        if self._fresh:
            given = {name: self._values.get(piece, name) for name in self._given}
            found |= run(self._session, given, self._fresh)
        for name, value in found.items():
            if not isinstance(value, np.ndarray):
                raise RuntimeFailure(f"'{name}' is no tensor")
        return found


def _declared(name: str, value: Array) -> ValueInfoProto:
    """A value as an input of a graph: its type and rank."""
    element = TensorProto.STRING if value.dtype.hasobject else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, element, [None] * value.ndim)

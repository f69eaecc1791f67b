"""The table of encodings. A new one is a file here and a line in this table."""

from onnxprune.encodings.positions.base import Encoding
from onnxprune.encodings.positions.bitmask import Bitmask
from onnxprune.encodings.positions.dense import Dense
from onnxprune.encodings.positions.flat import Flat
from onnxprune.encodings.positions.rows import Rows
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values import FORMS, form_of
from onnxprune.encodings.values.base import Coded, Values

GRAPH: dict[str, Encoding] = {encoding.name: encoding for encoding in (Flat(), Rows(), Bitmask(), Dense())}

__all__ = ["FORMS", "GRAPH", "Coded", "Encoding", "Sparse", "Values", "form_of", "named"]


def named(encoding: str) -> list[Encoding]:
    """The encodings of the table that the option `encoding` allows: one, all for auto and graph, none for coo."""
    if encoding == "coo":
        return []
    return [GRAPH[encoding]] if encoding in GRAPH else list(GRAPH.values())

"""The table of encodings. A new one is a file here and a line in this table.

`GATHERED` is none of them: it packs tables row by row for the nodes that gather rows, and nothing else can read it.
"""

from onnxprune.encodings.positions.base import Encoding, Packing
from onnxprune.encodings.positions.bitmask import Bitmask
from onnxprune.encodings.positions.dense import Dense
from onnxprune.encodings.positions.escape import Escape
from onnxprune.encodings.positions.flat import Flat
from onnxprune.encodings.positions.gathered import GATHERED
from onnxprune.encodings.positions.rows import Rows
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values import FORMS, form_of
from onnxprune.encodings.values.base import Coded, Values

GRAPH: dict[str, Encoding] = {encoding.name: encoding for encoding in (Flat(), Rows(), Bitmask(), Escape(), Dense())}

__all__ = [
    "FORMS", "GATHERED", "GRAPH", "Coded", "Encoding", "Packing", "Sparse", "Values", "form_of", "named", "packing",
]  # fmt: skip


def packing(name: str) -> Packing | None:
    """What packs a weight that decodes itself under this name."""
    return GATHERED if name == GATHERED.name else GRAPH.get(name)


def named(encoding: str) -> list[Encoding]:
    """The encodings of the table that the option `encoding` allows: one, all for auto and graph, else none."""
    if encoding in ("coo", GATHERED.name):
        return []
    return [GRAPH[encoding]] if encoding in GRAPH else list(GRAPH.values())

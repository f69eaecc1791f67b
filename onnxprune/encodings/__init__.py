"""The table of encodings. A new one is a file here and a line in this table."""

from onnxprune.encodings.base import Encoding, Sparse
from onnxprune.encodings.bitmask import Bitmask
from onnxprune.encodings.dense import Dense
from onnxprune.encodings.flat import Flat
from onnxprune.encodings.rows import Rows
from onnxprune.encodings.values import FORMS, Coded, Values, form_of

GRAPH: dict[str, Encoding] = {encoding.name: encoding for encoding in (Flat(), Rows(), Bitmask(), Dense())}

__all__ = ["FORMS", "GRAPH", "Coded", "Encoding", "Sparse", "Values", "form_of"]

"""Which release of ONNX Runtime reads which form, as the tests know it."""

from __future__ import annotations

from onnxprune.encodings import FORMS, GRAPH

# The lowest opset of positions and of values: that of CumSum (11), of Mod (10), of NonZero (9), of Cast and Mul (1);
# in front of a MatMul that of DequantizeLinear with an axis (13) or with blocks of INT4 (21), or that of
# DynamicQuantizeLinear (11). A new one gives its own.
_POSITIONS = {name: encoding.opset for name, encoding in GRAPH.items()} | {
    "flat": 11, "rows": 11, "escape": 11, "bitmask": 9, "dense": 1,
}  # fmt: skip
_VALUES = {name: form().opset(fused=False) for name, form in FORMS.items()} | {
    "exact": 1, "half": 1, "shared": 10, "int8": 10, "int8-dynamic": 10, "int4": 10, "int2": 10,
}  # fmt: skip
OPSETS = {
    (positions, values): max(_POSITIONS[positions], _VALUES[values]) for positions in _POSITIONS for values in _VALUES
}
_CODES = {"shared", "int4", "int2"}  # forms that always have a codebook
HELD = [(encoding, values) for encoding, values in OPSETS if GRAPH[encoding].fits(None) or values in _CODES]
# Of a form whose integers a MatMul reads: opset, the release that loads it, the one from which it is fast.
FUSED = {"int8": (13, "1.15", "1.25"), "int8-dynamic": (11, "1.15", "1.25"), "int4": (21, "1.23", "1.25")}
STORED = {"int4": (21, "1.20", "1.25"), "int2": (25, "1.24", "1.29")}  # as initializers of less than a byte an entry
FOLDED = ("1.15", "1.15")
TABLES_AT_LOAD = ("iree", "iree-at-load", "litert", "ncnn")  # targets for which no table is decoded row by row


def number(release: str) -> tuple[int, ...]:
    """Major and minor of a release, which compare as numbers."""
    return tuple(map(int, release.split(".")[:2]))

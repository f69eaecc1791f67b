"""Which release of ONNX Runtime reads which form, as the tests know it."""

from __future__ import annotations

# The lowest opset of each form: that of CumSum (11), of Mod (10), of NonZero (9), of Cast and Mul (1); in
# front of a MatMul, of DequantizeLinear with an axis (13) or with blocks of INT4 (21).
OPSETS = {
    ("flat", "exact"): 11, ("flat", "half"): 11, ("flat", "shared"): 11, ("flat", "int8"): 11, ("flat", "int4"): 11,
    ("rows", "exact"): 11, ("rows", "half"): 11, ("rows", "shared"): 11, ("rows", "int8"): 11, ("rows", "int4"): 11,
    ("bitmask", "exact"): 9, ("bitmask", "half"): 9, ("bitmask", "shared"): 10, ("bitmask", "int8"): 10,
    ("bitmask", "int4"): 10, ("dense", "exact"): 1, ("dense", "half"): 1, ("dense", "shared"): 10,
    ("dense", "int8"): 10, ("dense", "int4"): 10,
}  # fmt: skip
# Of a form whose integers a MatMul reads: opset, the release that loads it, the one from which it is fast.
FUSED = {"int8": (13, "1.15", "1.25"), "int4": (21, "1.23", "1.25")}
FOLDED = ("1.15", "1.15")


def number(release: str) -> tuple[int, ...]:
    """Major and minor of a release, which compare as numbers."""
    return tuple(map(int, release.split(".")[:2]))

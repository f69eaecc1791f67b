"""How the values of a weight are stored: a carrier tensor that is encoded, and what turns it into the weight.

| form | carrier | then |
|---|---|---|
| exact | the weight | - |
| half | float16 | Cast |
| shared:B | codes into a codebook of at most 2**B float16 values, 0.0 among them (k-means) | Cast, Mul by a scale |
| int8, int8:B | int8 on a uniform grid, all 255 values or a codebook of 2**B of them | Cast, Mul; or DequantizeLinear |
| int8-dynamic | int8 from -63 to 63 | MatMulInteger with activations that each run rounds |
| int4 | int8 from -7 to 7 | Cast, Mul; or Cast, DequantizeLinear, in blocks along the input |
| int2 | int8 from -2 to 1 | Cast, Mul; or DequantizeLinear of an int2 initializer, in blocks along the input |

DequantizeLinear stands in front of a MatMul: ONNX Runtime fuses the two into a kernel that reads the small
integers. Everything else folds when the model is loaded.
"""

from __future__ import annotations

from onnxprune.encodings.values.base import Values
from onnxprune.encodings.values.blocks import Int2, Int4
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.encodings.values.floats import Exact, Half
from onnxprune.encodings.values.integers import Int8
from onnxprune.encodings.values.shared import Shared
from onnxprune.errors import OptionError

FORMS: dict[str, type[Values]] = {form.name: form for form in (Exact, Half, Shared, Int8, Int8Dynamic, Int4, Int2)}


def form_of(spec: str, excess: float = 0.0) -> Values:
    """A form from its name: exact, half, shared:4, int8, int8:5, int8-dynamic, int4, int2.

    Args:
        spec: the name.
        excess: the squared error that a codebook may give for entropy, see `entropy_constrained.constrained`.

    Raises:
        OptionError: there is no such form.
    """
    name, colon, bits = spec.partition(":")
    books = {"shared": Shared, "int8": Int8}
    if name in books and (not colon or bits.isdecimal()):
        return books[name](bits=int(bits), excess=excess) if colon else books[name](excess=excess)
    if name in FORMS and not colon:
        return FORMS[name]()
    known = ", ".join(sorted(FORMS))
    raise OptionError(f"values '{spec}' is not one of auto, {known}, shared:BITS, int8:BITS")

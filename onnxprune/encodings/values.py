"""How kept values are stored: exactly, or as half-precision numbers that a Cast widens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.dtypes import Array, numpy_dtype
from onnxprune.encodings.base import Builder


@dataclass(frozen=True)
class Values:
    """A value form: `store` to what the file holds, `restore` to the weight's type, `emit` its nodes."""

    name: str

    def fits(self, element: int) -> bool:
        """Whether a weight of this element type gains from the form."""
        return True

    def itemsize(self, element: int) -> int:
        """Bytes per value."""
        dtype = numpy_dtype(element)
        assert dtype is not None
        return dtype.itemsize

    def store(self, values: Array) -> Array | None:
        """What the file holds, or None where the form cannot hold these values."""
        return values

    def restore(self, stored: Array, element: int) -> Array:
        """The values that the weight will have."""
        return stored

    def emit(self, build: Builder, stored: Array, element: int) -> str:
        """The value's name in the graph."""
        return build.constant("values", stored)


@dataclass(frozen=True)
class Half(Values):
    """IEEE half precision: 11 significant bits, relative error at most 2**-11 in the normal range."""

    def fits(self, element: int) -> bool:
        """See `Values.fits`."""
        return element in (TensorProto.FLOAT, TensorProto.DOUBLE)

    def itemsize(self, element: int) -> int:
        """See `Values.itemsize`."""
        return 2

    def store(self, values: Array) -> Array | None:
        """See `Values.store`: values beyond 65,504 do not fit."""
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        return half if np.isfinite(half).all() else None

    def restore(self, stored: Array, element: int) -> Array:
        """See `Values.restore`."""
        return stored.astype(numpy_dtype(element))

    def emit(self, build: Builder, stored: Array, element: int) -> str:
        """See `Values.emit`."""
        return build.op("Cast", [build.constant("values", stored)], to=element)


VALUES = {form.name: form for form in (Values("exact"), Half("half"))}

"""ONNX element types as numpy sees them: one table."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

Array = np.ndarray
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)  # in each byte

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
QUANTISED = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})
# Small integers behind a scale: several of them lie in a byte. Releases of onnx before 1.20 have no INT2.
PACKED_INTEGERS = frozenset(
    value for name, value in TensorProto.DataType.items() if name in ("INT2", "UINT2", "INT4", "UINT4")
)
_BITS = {
    np.dtype(ml_dtypes.int2): 2,
    np.dtype(ml_dtypes.uint2): 2,
    np.dtype(ml_dtypes.int4): 4,
    np.dtype(ml_dtypes.uint4): 4,
}
# Types that numpy has and whose elements are whole bytes.
_VIEWS = (
    FLOATS
    | QUANTISED
    | {
        TensorProto.INT32,
        TensorProto.UINT32,
        TensorProto.INT64,
        TensorProto.UINT64,
        TensorProto.BOOL,
    }
)


def numpy_dtype(element: int) -> np.dtype | None:
    """The numpy type whose bytes are the tensor's, or None where there is none."""
    if element == TensorProto.BFLOAT16:
        return np.dtype(ml_dtypes.bfloat16)
    return helper.tensor_dtype_to_np_dtype(element) if element in _VIEWS else None


def array_dtype(element: int) -> np.dtype:
    """The numpy type of the values of any element type: that of ml_dtypes for 8 bits of a float and for less."""
    return helper.tensor_dtype_to_np_dtype(element)


def packed_bytes(dtype: np.dtype, count: int) -> int:
    """Bytes of so many entries in a file: 2 or 4 of those with 4 or 2 bits lie in one, whatever numpy takes."""
    bits = 8 * dtype.itemsize if dtype.kind in "biufc" else _BITS.get(dtype, 8 * dtype.itemsize)
    return -(-count * bits // 8)


def name_of(element: int) -> str:
    """The field's name of an element type: float32, bfloat16, int8 ..."""
    dtype = numpy_dtype(element)
    return str(dtype) if dtype is not None else TensorProto.DataType.Name(element).lower()


def bits_of(array: Array) -> Array:
    """The same memory as unsigned integers: what "bit for bit" compares."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def settled(array: Array) -> Array:
    """The array as float32 of 12 bits, so that what follows is the same for any number of threads and any processor.

    The last bits of a solver's results differ with the order of its sums. Where values are rounded to few levels one
    after the other, one bit changes many of them.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 10)) & np.uint32(0xFFFFF800)).view(np.float32)

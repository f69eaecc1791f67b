"""Values: the contract of a value form, and Coded, a weight in its terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import FLOATS, Array
from onnxprune.encodings.positions import digits
from onnxprune.errors import OptionError
from onnxprune.model.weight import Weight
from onnxprune.quantization.error_feedback import Feedback

DEQUANTISE_AXIS = 13  # the opset that gave DequantizeLinear an axis
DYNAMIC = 11  # the opset that brought DynamicQuantizeLinear
INT4 = 21  # the opset that brought INT4 and blocks
INT2 = 25  # the opset that brought INT2
DEAD = 1e-30  # a largest value below it is nothing


@dataclass(frozen=True)
class Coded:
    """A weight in the terms of a value form.

    Attributes:
        carrier: the dense tensor that is encoded, of codes where there is a codebook; codes lie in memory.
        fill_value: what most entries hold, in the type of the decoded carrier.
        codebook: the values of the codes, or None.
        scale: what the decoded carrier is multiplied by; it broadcasts over `view` of the carrier.
        view: the shape in which the scale applies where it is not the carrier's own.
        fused: whether a kernel reads the integers: DequantizeLinear applies the scale, or it is that of a product.
        block: entries along the input that share a scale, 0 for all of them.
        transposed: whether the carrier is the weight's transpose.
        lost: squared error over energy, of the weight or half that of its worst channel, where a plan is held
            against it.
        dynamic: whether it is a product of integers, for which each run rounds the activations.
        packed: the type of less than a byte in which a kernel reads what leaves the position encoding.
    """

    carrier: Array | ChunkedArray
    fill_value: Array
    codebook: Array | None = None
    scale: Array | None = None
    view: tuple[int, ...] = ()
    fused: bool = False
    block: int = 0
    transposed: bool = False
    lost: float = 0.0
    dynamic: bool = False
    packed: np.dtype | None = None

    @property
    def decoded(self) -> np.dtype:
        """The type that leaves the position encoding."""
        return self.carrier.dtype if self.codebook is None else self.codebook.dtype

    @property
    def flags(self) -> str:
        """What `restore` must know beside the parts."""
        return (".t" if self.transposed else "") + (f".b{self.block}" if self.block else "")


class Values(ABC):
    """A value form."""

    name: ClassVar[str]
    stored: ClassVar[bool] = (
        False  # whether a kernel reads its integers from an initializer alone: nothing folds to them
    )

    def fits(self, element: int) -> bool:
        """Whether a weight of this element type gains from the form."""
        return element in FLOATS

    def opset(self, fused: bool) -> int:
        """The lowest opset whose operators it needs."""
        return digits.OPSET

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel may read integers of it."""
        return self.opset(fused=True) > self.opset(fused=False)

    @abstractmethod
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """The weight in this form, or None where the form cannot hold it.

        Args:
            weight: axes, element type, zero.
            array: its values.
            transposed: None to fold; else whether the MatMul that fuses it reads the transpose.
            feedback: of the inputs that it is multiplied with; only codebooks use it.
        """

    def __str__(self) -> str:
        return self.name


def check_bits(name: str, bits: int) -> None:
    """Refuse bits that no codebook has.

    Raises:
        OptionError: they are not from 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise OptionError(f"values '{name}:{bits}': the bits must be from 2 to 8")

"""shared: at most 2**bits values per weight, found by k-means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.values.base import Coded, Values, check_bits
from onnxprune.encodings.values.rounding import recoded, with_codebook
from onnxprune.encodings.values.scales import centred, computed, live_channels, unit_scale
from onnxprune.model.weight import Weight
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.entropy_constrained import constrained
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.histogram import Histogram

_SCALE_GAINS = 1.1  # the error that a scale has to save: it costs a pass over the weight when the model is loaded


@dataclass(frozen=True)
class Shared(Values):
    """At most 2**bits values per weight, found by k-means over the non-zeros (Han et al. 2016)."""

    name = "shared"
    bits: int = 4
    excess: float = 0.0  # see `entropy_constrained.constrained`

    def __post_init__(self) -> None:
        """Check the bits."""
        check_bits(self.name, self.bits)

    def __str__(self) -> str:
        return f"{self.name}:{self.bits}"

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """A scale per output channel where it is worth its bytes."""
        wide = computed(array)
        if wide is None:
            return None
        levels = 2**self.bits
        wide, scale = live_channels(weight, wide)
        unit = unit_scale(wide)
        importance = None if scale is None else np.square(unit / scale.astype(np.float64))
        histogram = Histogram.of(wide, unit, importance)
        codebook = fit_codebook(histogram, levels, prune=False)
        if scale is not None and codebook.error > 0:
            by_channel = Histogram.of(wide, scale)
            scaled = fit_codebook(by_channel, levels, prune=False)
            kept = wide.size - histogram.zeros
            gained = math.log2(codebook.error / max(scaled.error, 1e-12 * codebook.error)) / 2 * kept
            if gained > 16 * scale.size and codebook.error > _SCALE_GAINS * scaled.error:
                codebook, unit, histogram = scaled, scale, by_channel
        return with_codebook(weight, wide, unit, constrained(histogram, codebook, self.excess), False, feedback)

    def recode(self, weight: Weight, array: Array | ChunkedArray, feedback: Feedback | None = None) -> Coded:
        """An int8 or uint8 weight with at most 2**bits of its values, the zero point among them."""
        histogram = Histogram.of(centred(weight, array))
        codebook = constrained(histogram, fit_codebook(histogram, 2**self.bits, prune=False), self.excess)
        return recoded(weight, array, codebook, False, feedback)

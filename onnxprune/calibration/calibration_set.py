"""Samples that a model is run on to see what its layers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.runtime.session import Feeds, Input

_AT_A_TIME = 8  # samples of a run, whose activations are held together


@dataclass(frozen=True)
class CalibrationSet:
    """Samples that the layers' inputs and the reach of noise are measured on.

    Attributes:
        source: see `samples.load`.
        samples: at most so many.
        half: 0 or 1 for these of a half only.
    """

    source: Path
    samples: int
    half: int | None = None

    def pieces(self, inputs: list[Input]) -> tuple[list[Feeds], int]:
        """The samples, a few to a run, and how many they are.

        Args:
            inputs: of the model, see `session.inputs_of`.

        Raises:
            DataError: the samples do not fit them.
        """
        from onnxprune.runtime import samples as sample_files  # which runs models: not while passes are listed

        feeds, count = sample_files.load(self.source, inputs, self.samples, self.half)
        return [piece for feed in feeds for piece in sample_files.pieces(inputs, feed, _AT_A_TIME)], count

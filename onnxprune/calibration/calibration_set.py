"""Samples that a model is run on to see what its layers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onnxprune.core.override import override

if TYPE_CHECKING:
    import onnxruntime as ort

    from onnxprune.runtime.session import Feeds

_AT_A_TIME = 8  # samples of a run, whose activations are held together


class Calibration(Protocol):
    """Where samples come from."""

    def pieces(self, session: ort.InferenceSession) -> tuple[list[Feeds], int]:
        """The samples for a session, a few to a run, and how many they are.

        Args:
            session: of the model.

        Raises:
            DataError: the samples do not fit it.
        """
        ...


@dataclass(frozen=True)
class CalibrationSet(Calibration):
    """Samples that the layers' inputs and the reach of noise are measured on.

    Attributes:
        source: see `samples.load`.
        samples: at most so many.
        half: 0 or 1 for these of a half only.
    """

    source: Path
    samples: int
    half: int | None = None

    @override
    def pieces(self, session: ort.InferenceSession) -> tuple[list[Feeds], int]:
        # Which run models: not while passes are listed.
        from onnxprune.runtime import samples as sample_files

        found, inputs = sample_files.load(self.source, session, self.samples, self.half)
        return found.pieces(inputs, _AT_A_TIME), found.count

"""Halves of the data: one decides or calibrates, the other judges what came of it."""

from __future__ import annotations

from pathlib import Path

from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import open_session

MIN_HALF_SAMPLES = 8  # samples of a half, below which it judges nothing


def halves(source: Path, data: Path, samples: int | None) -> tuple[Samples, Samples]:
    """The first and the second half of the samples, from the same shuffle always.

    Args:
        source: the model whose inputs they are.
        data: see `samples.read`.
        samples: at most so many of both together.

    Raises:
        DataError: the data does not fit the model.
    """
    given, inputs = sample_files.runnable(open_session(source), sample_files.read(data), str(data))
    most = None if samples is None else -(-samples // 2)
    first, second = (sample_files.cut(given, str(data), inputs, most, half) for half in (0, 1))
    return first, second

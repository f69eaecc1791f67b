"""What several commands take, checked once."""

from __future__ import annotations

import math
import os
from pathlib import Path

from onnxprune.errors import OptionError, OutputError

PathLike = str | os.PathLike[str]


def check_request(
    source: Path, target: Path | None, in_place: bool, tolerance: float | None, verify: bool, samples: int | None
) -> None:
    """Refuse requests that contradict themselves.

    Raises:
        OptionError: a tolerance without verification, or not a number.
        OutputError: the output is the input, which was not allowed.
    """
    if tolerance is not None and not verify:
        raise OptionError("a tolerance cannot be checked without verification")
    if tolerance is not None and math.isnan(tolerance):
        raise OptionError("the tolerance must be a number, not NaN")
    check_samples(samples)
    if target is not None and not in_place and target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input; give --in-place to overwrite it")


def check_samples(samples: int | None) -> None:
    """Refuse a number of samples below 1."""
    if samples is not None and samples < 1:
        raise OptionError(f"samples must be at least 1, not {samples}")

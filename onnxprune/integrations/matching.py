"""What the integrations share: masks, from a file or as they are, under the names of a framework's parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import MaskError, WeightError
from onnxprune.masks import file

Masks = str | os.PathLike[str] | Mapping[str, Any]


def match(masks: Masks, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The mask of each parameter that has one, by the parameter's name.

    Args:
        masks: a mask file, or name -> bool array, True where a weight is kept. '/' and '.' are the same in a name.
        shapes: name -> shape of every parameter.

    Raises:
        MaskError: the file cannot be read, or a mask has no parameter, or another shape, or is not bool.
    """
    given = {name.replace("/", "."): (name, mask) for name, mask in _arrays(masks).items()}
    found = {name: given.pop(key) for name in shapes if (key := name.replace("/", ".")) in given}
    if given:
        unknown = ", ".join(f"'{name}'" for name, _ in given.values())
        raise MaskError(f"no parameter is called {unknown}: the model has {', '.join(shapes) or 'none'}")
    for name, (_, mask) in found.items():
        if mask.dtype != np.bool_:
            raise MaskError(f"the mask of '{name}' must be bool, not {mask.dtype}")
        if mask.shape != tuple(shapes[name]):
            raise MaskError(f"the mask of '{name}' has shape {mask.shape}, the parameter {tuple(shapes[name])}")
    return {name: mask for name, (_, mask) in found.items()}


def revived(counts: Mapping[str, int]) -> None:
    """Raise where pruned weights are not zero: name -> how many.

    Raises:
        WeightError: with the names.
    """
    broken = [f"'{name}' ({count})" for name, count in counts.items() if count]
    if broken:
        raise WeightError(f"pruned weights are not zero any more: {', '.join(broken)}")


def _arrays(masks: Masks) -> dict[str, np.ndarray]:
    if isinstance(masks, Mapping):
        return {name: np.asarray(mask) for name, mask in masks.items()}
    return dict(file.read(Path(masks)).masks)

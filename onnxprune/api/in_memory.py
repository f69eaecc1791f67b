"""What Python callers have at hand: samples as arrays, numbers as numpy scalars."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

from onnxprune.runtime.held_data import held

P = ParamSpec("P")
R = TypeVar("R")


def takes_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take as `data` what `held_data.held` takes, and numpy scalars: it gets a path, and numbers."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim and name != "data"):
                kwargs[name] = value.item()
        if "data" not in kwargs:
            return function(*args, **kwargs)
        with held(kwargs["data"]) as kwargs["data"]:  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return call

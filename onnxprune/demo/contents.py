"""What a page knows of its models: files, inputs and one sample of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.errors import OptionError
from onnxprune.model.model import Model
from onnxprune.runtime import samples
from onnxprune.runtime.input_kinds import Image
from onnxprune.runtime.input_recognition import recognise
from onnxprune.runtime.session import inputs_of, open_session
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

# Types of numpy that tensors in onnxruntime-web have too, under the same names.
_TYPES = frozenset(
    {"float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"}
)


@dataclass(frozen=True)
class Picture:
    """An input that holds one picture.

    Attributes:
        axis: of the channels.
        channels: 1 or 3.
        height, width: in pixels.
        low, high: black and white.
    """

    axis: int
    channels: int
    height: int
    width: int
    low: float
    high: float


@dataclass(frozen=True)
class PageInput:
    """An input of the model, and where its sample lies.

    Attributes:
        name: of the input.
        type: as onnxruntime-web calls it.
        shape: of the sample.
        start: byte of the samples' file at which it begins.
        picture: what can be drawn; None where nothing can.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    picture: Picture | None


def described(original: Path, data: Path | None) -> tuple[list[dict[str, Any]], bytes]:
    """The inputs of a model as the page wants them, and the bytes of one sample of all of them.

    Args:
        original: a model file.
        data: samples, of which the first is taken; None makes one up.

    Raises:
        DataError: the data does not fit the model.
        OptionError: nothing that was made up runs, or onnxruntime-web has no tensor of an input's type.
        RuntimeFailure: the model does not load.
    """
    model = Model.load(original)
    session = open_session(original)
    inputs = inputs_of(session)
    if data is not None:
        feed: Mapping[str, Array] = samples.load(data, session, samples=1)[0].feeds[0]
    else:
        try:
            feed = synthesise(model, session, 1).feeds[0]
        except CannotSynthesise as error:
            raise OptionError(f"no input could be made for the page: {error}; {error.advice}") from error
    kinds, held, found = recognise(model, inputs), bytearray(), []
    for item in inputs:
        value = np.ascontiguousarray(feed[item.name])
        if value.dtype.name not in _TYPES:
            raise OptionError(f"onnxruntime-web has no tensors of {value.dtype}, which '{item.name}' is")
        kind = kinds[item.name]
        picture = _picture(kind, value.shape) if isinstance(kind, Image) else None
        held += bytes(-len(held) % 8)
        found.append(PageInput(item.name, value.dtype.name, value.shape, len(held), picture))
        held += value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    return [asdict(each) for each in found], bytes(held)


def _picture(kind: Image, shape: tuple[int, ...]) -> Picture | None:
    """The one picture that a sample of this shape holds."""
    sides = [size for axis, size in enumerate(shape) if axis != kind.axis]
    if kind.channels not in (1, 3) or len(sides) < 2 or any(size != 1 for size in sides[:-2]):
        return None
    return Picture(kind.axis, kind.channels, sides[-2], sides[-1], kind.low, kind.high)

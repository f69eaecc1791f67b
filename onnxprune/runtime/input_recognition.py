"""Recognise what the inputs of a model are: from names, shapes, metadata and the first operators that read them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from onnx import ValueInfoProto

from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.runtime.input_kinds import (
    SAMPLE_RATE,
    Constant,
    Features,
    Image,
    Kind,
    Length,
    Numbers,
    Tokens,
    Waveform,
)  # fmt: skip
from onnxprune.runtime.input_readers import BYTES, NORMALISED, UNIT, Pixels, Readers
from onnxprune.runtime.session import Input

_MASK = frozenset({"mask", "masks"})
_TYPES = (frozenset({"token", "type"}), frozenset({"segment", "ids"}))
_LENGTH = frozenset({"length", "lengths", "len", "lens", "seqlen"})
_LIMITS = frozenset({"max", "min"})
_RATE = ({"sr"}, {"fs"}, {"samplerate"}, {"sample", "rate"}, {"sampling", "rate"})
_CACHE = frozenset({"past", "cache", "caches"})
_STATE = frozenset({"state", "states", "hidden", "cell", "h", "c", "hn", "cn"})
_NO_STATE = frozenset({"encoder", "last"})  # its states are the result of another model
_PASSED_ON = _STATE | _CACHE | {"present"}
_WAYS = frozenset({"in", "input", "init", "initial", "prev", "out", "output", "new", "next", "n"})  # of one state
_SOUND = frozenset({"audio", "wav", "wave", "waveform", "waveforms", "speech", "sound", "pcm"})
_FRAMES = frozenset(
    {"mel", "mels", "logmel", "spec", "spectrogram", "spectrograms", "fbank", "feature", "features", "feat", "feats",
     "mfcc", "mfccs", "stft", "filterbank"}
)  # fmt: skip
_PICTURE = frozenset({"image", "images", "img", "imgs", "pixel", "pixels", "picture", "photo"})
_BINS = frozenset({40, 80, 161, 201, 257, 513})  # of mel and Fourier spectra, and of little else
_SHORTEST = 8  # side of a picture
_WINDOW = 400  # entries of 25 ms, the shortest sound with a name
_RECORDING = 4000  # entries that only recordings have
_STREAMED = 512  # entries of a sound that comes with a state, window by window


@dataclass(frozen=True)
class _Known:
    """All that is known of one input."""

    item: Input
    readers: Readers
    words: frozenset[str]
    rated: bool  # a sampling rate stands beside it
    streamed: bool  # states stand beside it
    scale: Pixels | None  # of pictures, by the metadata

    @property
    def rank(self) -> int:
        return len(self.item.shape)

    @property
    def floats(self) -> bool:
        return bool(np.issubdtype(self.item.dtype, np.floating))

    def spans(self, axis: int, least: int) -> bool:
        """Whether the axis is free or has so many entries."""
        size = self.item.shape[axis]
        return not isinstance(size, int) or size >= least


def recognise(model: Model, inputs: list[Input]) -> dict[str, Kind]:
    """The kind of each input by its name: `Numbers` where nothing is recognised."""
    metadata = {entry.key: entry.value for entry in model.proto.metadata_props}
    scope = scopes_of(model.proto)[0]
    readers = {item.name: Readers(model, scope, item.name) for item in inputs}
    returned = list(model.proto.graph.output)
    found: dict[str, Kind] = {}
    for item in inputs:
        passed_on = any(_ends_as(item, output) for output in returned)
        kind = _constant(item, readers[item.name], _words(item.name), passed_on)
        if kind is not None:
            found[item.name] = kind
    called = {kind.phrase for kind in found.values()}
    for item in inputs:
        if item.name not in found and not _counts(item, readers[item.name]):
            known = _Known(
                item, readers[item.name], _words(item.name), "sampling rates" in called, "states of 0" in called,
                _nominal(metadata),
            )  # fmt: skip
            found[item.name] = _varying(known)
    for item in inputs:
        if item.name not in found:
            found[item.name] = _length(item, inputs, found) or _plain(readers[item.name], item)
    if not any(kind.varies for kind in found.values()):  # of a state alone, zeros would say nothing
        floats = [item for item in inputs if found[item.name].phrase == "states of 0"]
        found |= {item.name: _plain(readers[item.name], item) for item in floats}
    return {item.name: found[item.name] for item in inputs}


def unrecognised(model: Model, inputs: list[Input]) -> dict[str, Kind]:
    """The kinds that hardly guess: masks by type and name, indices by the operators that read them."""
    scope = scopes_of(model.proto)[0]
    return {item.name: _plain(Readers(model, scope, item.name), item) for item in inputs}


def told_sizes(model: Model, inputs: list[Input]) -> dict[str, dict[int, int]]:
    """Of each input by its name the sizes of axes that the first weights tell, see `Readers.trailing`."""
    scope = scopes_of(model.proto)[0]
    found: dict[str, dict[int, int]] = {}
    for item in inputs:
        sizes = Readers(model, scope, item.name).trailing
        first = len(item.shape) - len(sizes)
        found[item.name] = {axis: size for axis, size in enumerate(sizes, first) if size > 1}
    return found


def _plain(readers: Readers, item: Input) -> Kind:
    """Ones for masks, zeros for those of padding, indices for tables, else numbers."""
    if item.dtype == np.bool_ and readers.hides:
        return Constant("masks of 0", 0)
    if item.dtype == np.bool_ or "mask" in item.name.lower():
        return Constant("masks of 1", 1)
    if not np.issubdtype(item.dtype, np.integer):
        return Numbers()
    rows = readers.rows or readers.computed_rows
    return Numbers(readers.compared) if rows is None else Tokens(rows)


def _constant(item: Input, readers: Readers, words: frozenset[str], passed_on: bool) -> Kind | None:
    """The kinds of which every sample has the same value, told from names above all."""
    integers = np.issubdtype(item.dtype, np.integer)
    small = all(size == 1 or (axis == 0 and not isinstance(size, int)) for axis, size in enumerate(item.shape))
    if item.dtype == np.bool_:
        return Constant("flags unset", 0) if readers.hides else Constant("flags set", 1)
    if words & _MASK:
        return Constant("masks of 1", 1)
    if small and any(words >= rate for rate in _RATE):
        return Constant("sampling rates", SAMPLE_RATE if readers.compared is None else float(readers.compared[0]))
    if integers and any(words >= types for types in _TYPES):
        return Constant("token types of 0", 0)
    if integers:
        return None
    named = bool(words & _CACHE) or bool(
        passed_on and words & _STATE and not words & _NO_STATE and not words >= {"hidden", "states"}
    )
    return Constant("states of 0", 0) if readers.is_state or named else None


def _ends_as(item: Input, output: ValueInfoProto) -> bool:
    """Whether an output may be what becomes of an input, a state: of its rank, and called by no other word."""
    words, own = _words(output.name), _words(item.name)
    shaped = output.type.tensor_type
    alike = not shaped.HasField("shape") or len(shaped.shape.dim) == len(item.shape)
    left, right = own - _PASSED_ON - _WAYS, words - _PASSED_ON - _WAYS
    return bool(words & _PASSED_ON) and alike and (left <= right or right <= left)


def _counts(item: Input, readers: Readers) -> bool:
    """Whether it is lengths of another input."""
    words = _words(item.name)
    if not np.issubdtype(item.dtype, np.integer) or len(item.shape) > 2 or readers.rows is not None:
        return False
    single = len(item.shape) < 2 or item.shape[1] == 1
    return single and (readers.counts or bool(words & _LENGTH and not words & _LIMITS))


def _length(item: Input, inputs: list[Input], kinds: dict[str, Kind]) -> Kind | None:
    """The axis that it counts: of an input that its name tells, or of the first that varies; the first free one."""
    words = _words(item.name) - _LENGTH
    others = [o for o in inputs if o.name in kinds and kinds[o.name].varies and any(_counted(o, kinds[o.name]))]
    others.sort(key=lambda o: not words & _words(o.name))
    return next((Length(o.name, _counted(o, kinds[o.name])[0]) for o in others), None)


def _counted(item: Input, kind: Kind) -> list[int]:
    """Axes along which an input may be counted, the likeliest first; that of samples is none."""
    if isinstance(kind, Features | Waveform):
        return [kind.time]
    axes = range(1, len(item.shape)) if len(item.shape) > 1 else range(len(item.shape))
    return sorted(axes, key=lambda axis: isinstance(item.shape[axis], int))


def _varying(known: _Known) -> Kind:
    rows = known.readers.rows
    if rows is not None:
        return Tokens(rows)
    kind = _picture(known)
    if kind is None and known.floats:
        kind = _waveform(known) or _features(known)
    return kind or _plain(known.readers, known.item)


def _waveform(known: _Known) -> Kind | None:
    shape = known.item.shape
    if known.rank not in (1, 2, 3) or (known.rank == 3 and 1 not in shape[1:]):
        return None
    time = 1 if known.rank == 3 and shape[2] == 1 else known.rank - 1
    filters = known.readers.filters
    single = len(filters) == 3 and filters[1] == 1 and known.rank > 1 and 1 not in shape[time:]
    symbol = _words(str(shape[time])) & (_SOUND | {"samples"}) if known.rank > 1 else None
    named = known.words & _SOUND or symbol or known.rated
    heard = bool(named or known.readers.transformed or single) and known.spans(time, _WINDOW)
    size = shape[time]
    long = known.rank == 3 and isinstance(size, int) and size >= _RECORDING
    return Waveform(time, _STREAMED if known.streamed else SAMPLE_RATE) if heard or long else None


def _features(known: _Known) -> Kind | None:
    shape = known.item.shape
    axes = [axis for axis in range(1, known.rank) if shape[axis] != 1]
    if known.rank not in (3, 4) or len(axes) != 2 or (known.rank == 4 and 1 not in shape[1:]):
        return None
    fixed = [axis for axis in axes if isinstance(shape[axis], int)]
    shaped = len(fixed) == 1 and (fixed == axes[1:] if known.rank == 4 else shape[fixed[0]] in _BINS)
    if not (shaped or known.words & (_FRAMES | _SOUND)):
        return None
    bins = fixed[0] if len(fixed) == 1 else axes[-1]
    return Features(next(axis for axis in axes if axis != bins), bins)


def _picture(known: _Known) -> Kind | None:
    """Three or four axes of which one has 1 or 3 channels; one channel needs more evidence than its shape."""
    shape, words = known.item.shape, known.words
    if known.rank not in (3, 4) or words & (_FRAMES | _SOUND):
        return None
    named = bool(words & _PICTURE) or known.scale is not None or known.item.dtype == np.uint8
    if known.rank == 3 and not named:
        return None
    first, last = known.rank - 3, known.rank - 1
    filters = known.readers.filters
    axis = last if shape[first] not in (1, 3) and (shape[last] in (1, 3) or known.readers.channels_last) else first
    channels = shape[axis] if isinstance(shape[axis], int) else (filters[1] if len(filters) == 4 else None)
    sides = [side for side in range(first, known.rank) if side != axis]
    if channels not in (1, 3) or not all(known.spans(side, _SHORTEST) for side in sides):
        return None
    spectrum = not isinstance(shape[sides[0]], int) and isinstance(shape[sides[1]], int)  # time is free, bins are not
    if channels == 1 and not named and (spectrum or len(filters) != 4):
        return None
    if not (known.floats or named):
        return None
    pixels = _scale(known, channels)
    return Image(channels, axis, pixels.low, pixels.high, pixels.words)


def _scale(known: _Known, channels: int) -> Pixels:
    if not known.floats:
        return Pixels(-128, 127, "-128 to 127") if known.item.dtype == np.int8 else BYTES
    return known.scale or known.readers.pixels or (NORMALISED if channels == 3 else UNIT)


def _nominal(metadata: dict[str, str]) -> Pixels | None:
    """The scale that the metadata of image models name: `Image.NominalPixelRange` of the ONNX specification."""
    scales = {
        "NominalRange_0_255": BYTES, "Normalized_0_1": UNIT, "Normalized_1_1": Pixels(-1, 1, "-1 to 1"),
        "NominalRange_16_235": Pixels(16, 235, "16 to 235"),
    }  # fmt: skip
    return scales.get(metadata.get("Image.NominalPixelRange", ""))


def _words(name: str) -> frozenset[str]:
    """The words of a name, in lower case: of `inputFeatures_0` input and features, of `h0` h."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name))

"""Open and write models, packed or not."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.api.remote import local
from onnxprune.api.stages import placed
from onnxprune.core.dtypes import numpy_dtype
from onnxprune.core.files import PathLike
from onnxprune.core.machine import has_integer_kernels, release_memory
from onnxprune.encodings.compatibility import FUSING, newest, session_entries
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.errors import ModelError, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.packed import reader, writer
from onnxprune.packed.coder import CodeLayout


def layouts_of(model: Model) -> dict[str, CodeLayout]:
    """How codes and symbols lie in the words of encoded weights, by tensor name, for an entropy coder."""
    found = {}
    for group in encoded_weights(model):
        for name, words in group.constants.items():
            own = name.removesuffix("codes").removesuffix("symbols")  # the prefix of a chunk, or of a plane
            powers, radix = (group.constants.get(own + part) for part in ("powers", "radix"))
            if own == name or powers is None or radix is None:
                continue
            base, digits, dtype = int(model.array(radix)), math.prod(powers.dims), numpy_dtype(words.data_type)
            if dtype is not None and 2 <= base <= 256:
                found[words.name] = CodeLayout(dtype.itemsize, base, digits)
    return found


IN_MEMORY = 512 << 20  # bytes of a packed model that `session` restores without a file


def load(path: PathLike) -> Model:
    """Open a model; see `Model.load`."""
    return Model.load(path)


def save(model: Model, path: PathLike) -> None:
    """Write a model atomically; see `Model.save`."""
    model.save(path)


@local(writes="out")
def pack(model: PathLike, out: PathLike) -> reader.Sizes:
    """Write a model and its external data as one small file; see `writer.pack`."""
    source = Path(model)
    layouts = {} if reader.is_packed(source) else layouts_of(Model.load(source))
    return writer.pack(source, placed(source.with_suffix(".onnxz"), out), layouts)


@local(writes="out")
def unpack(model: PathLike, out: PathLike) -> reader.Sizes:
    """Restore a packed model byte for byte; see `reader.unpack`."""
    source = Path(model)
    return reader.unpack(source, placed(source.with_suffix(".onnx"), out))


@local()
def session(
    model: PathLike,
    *,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    sess_options: ort.SessionOptions | None = None,
    **options: Any,
) -> ort.InferenceSession:
    """An ONNX Runtime session for a model, packed or not; the keywords are those of `InferenceSession`.

    A packed model is restored in memory, or in a temporary folder where it is large or has external data. What decoding
    took on the way goes back to the system, which ONNX Runtime leaves to the C library. Without
    `sess_options` integers in front of MatMul are folded to floats where the release, or the processor, lacks the
    kernel for them.

    Raises:
        PackedError: the packed file is damaged.
        RuntimeFailure: ONNX Runtime does not load the model.
    """

    def opened(source: str | bytes) -> ort.InferenceSession:
        settings = _fitting(source) if sess_options is None else sess_options
        try:
            session = ort.InferenceSession(source, settings, providers=list(providers), **options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RuntimeFailure(f"ONNX Runtime does not load {os.fspath(model)}: {error}") from error
        release_memory()  # of what was folded on the way
        return session

    if not reader.is_packed(model):
        return opened(os.fspath(model))
    held = reader.Packed(Path(model))
    if len(held.files) == 1 and held.nbytes <= IN_MEMORY:
        return opened(held.model_bytes())
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "model.onnx"
        reader.unpack(Path(model), place)
        return opened(os.fspath(place))


def _fitting(source: str | bytes) -> ort.SessionOptions:
    """Options under which the installed release runs the model as fast as it can."""
    settings, release = ort.SessionOptions(), ".".join(ort.__version__.split(".")[:2])
    if newest(release, FUSING) == release and has_integer_kernels():
        return settings
    with contextlib.suppress(ModelError):  # ONNX Runtime says what is wrong, and reads .ort files
        model = Model.of_bytes(source) if isinstance(source, bytes) else Model.load(source)
        for key, value in session_entries(model).items():
            settings.add_session_config_entry(key, value)
    return settings

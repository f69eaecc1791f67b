"""Checkpoints of any framework as named arrays: .safetensors, .npz, and .pt without running what it holds."""

from __future__ import annotations

import json
import mmap
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from onnxprune.errors import CheckpointError
from onnxprune.masks.matching.link import Array

_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NESTED = ("state_dict", "model")  # where training scripts put the weights beside the optimizer's state
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError, pickle.UnpicklingError,
    zipfile.BadZipFile, zlib.error, SafetensorError,
)  # fmt: skip


def read(path: Path) -> dict[str, Array]:
    """Every array of a checkpoint by name, in its order; safetensors and .pt stay on the disk until they are used.

    Raises:
        CheckpointError: it cannot be read, or is none of these formats.
    """
    readers = {".safetensors": _safetensors, ".npz": _npz, ".pt": _torch, ".pth": _torch, ".bin": _torch}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path} is no checkpoint that is read here: it must be .safetensors, .npz, .pt, .pth or .bin"
        )
    if not path.is_file():
        problem = "it is not a regular file" if path.exists() else "no such file"
        raise CheckpointError(f"cannot read {path}: {problem}")
    try:
        arrays = readers[path.suffix](path)
    except _DAMAGED as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays")
    return arrays


def is_real(array: Array) -> bool:
    """Whether the array holds real numbers, as weights do."""
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _safetensors(path: Path) -> dict[str, Array]:
    """Views of the mapped file; numpy's own reader knows no bfloat16."""
    with safe_open(path, framework="np"):  # checks the header and every offset
        pass
    with path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    (length,) = struct.unpack("<Q", mapped[:8])
    header = json.loads(bytes(mapped[8 : 8 + length]))
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in _TYPES:
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(mapped[start:stop], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def _npz(path: Path) -> dict[str, Array]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _torch(path: Path) -> dict[str, Array]:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{path} needs torch to be read: install it, or save it as .safetensors") from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than weights: save model.state_dict() alone") from error
    for key in _NESTED:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds no state dict: save model.state_dict()")
    return {name: _array(torch, value) for name, value in held.items() if isinstance(value, torch.Tensor)}


def _array(torch: Any, tensor: Any) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

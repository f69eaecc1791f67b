"""Mask files: which entries of a framework's parameters stay zero. docs/formats/masks.md is the format."""

from __future__ import annotations

import io
import json
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from onnxprune.core.files import staged
from onnxprune.core.files import write as write_bytes
from onnxprune.errors import MaskError
from onnxprune.masks.header import (
    WeightShape,
    parameter_from_json,
    parameter_to_json,
    table,
    text,
    weight_from_json,
    weight_to_json,
)
from onnxprune.masks.matching.link import Array, Parameter, Shape

VERSION = 1
KEY = "onnxprune.masks"  # of the header: in the safetensors metadata, or among the arrays of an npz
# What safetensors, zipfile and numpy raise on a damaged file.
_DAMAGED = (
    SafetensorError, zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, ValueError, EOFError, KeyError,
    TypeError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class MaskFile:
    """What a mask file holds.

    Attributes:
        model: SHA-256 of the source model, in hex.
        weights: the weights of that model, in the order in which its nodes read them.
        parameters: by the framework's name, or by the ONNX name where none is known.
        masks: name -> bool array in the parameter's shape, True where an entry is kept.
    """

    model: str
    weights: tuple[WeightShape, ...]
    parameters: Mapping[str, Parameter]
    masks: Mapping[str, Array]

    def facts(self) -> dict[str, Any]:
        """The header, for JSON."""
        return {
            "version": VERSION,
            "model": self.model,
            "weights": [weight_to_json(w) for w in self.weights],
            "parameters": {
                name: parameter_to_json(parameter, _density(self.masks[name]) if name in self.masks else None)
                for name, parameter in self.parameters.items()
            },
        }


def write(path: Path, masks: MaskFile) -> None:
    """Write a mask file atomically: npz where the name ends so, safetensors otherwise.

    Raises:
        MaskError: it could not be read back.
        OutputError: the target cannot be written.
    """
    header = json.dumps(masks.facts(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    arrays = {name: np.ascontiguousarray(masks.masks[name]) for name in sorted(masks.masks)}
    _parse(path, header, arrays)
    data = _to_npz({KEY: np.array(header)} | arrays) if path.suffix == ".npz" else to_safetensors(arrays, {KEY: header})
    with staged(path) as place:
        write_bytes(place, [data])


def read(path: Path) -> MaskFile:
    """Read a mask file of either format.

    Raises:
        MaskError: it is no mask file, damaged, of another version, or contradicts itself; with the tensor's name.
    """
    try:
        if not path.is_file():
            raise MaskError(f"cannot read {path}: {'it is not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        header, arrays = _from_npz(path) if zipped else _from_safetensors(path)
    except _DAMAGED as error:
        raise MaskError(f"{path} is no mask file, or it is damaged: {error}") from error
    except OSError as error:
        raise MaskError(f"cannot read {path}: {error.strerror or error}") from error
    return _parse(path, header, arrays)


def _from_safetensors(path: Path) -> tuple[str | None, dict[str, Array]]:
    with safe_open(path, framework="np") as file:
        return (file.metadata() or {}).get(KEY), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _from_npz(path: Path) -> tuple[str | None, dict[str, Array]]:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if len(set(file.files)) != len(file.files):
            raise MaskError(f"{path}: two of its arrays have the same name")
        arrays = {name: file[name] for name in file.files}
    header = arrays.pop(KEY, None)
    return None if header is None else str(header), arrays


def _to_npz(arrays: dict[str, Array]) -> bytes:
    """As `np.savez_compressed` writes, but with any name: its keyword arguments leave no room for "file"."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getbuffer(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _parse(path: Path, header: str | None, arrays: dict[str, Array]) -> MaskFile:
    """The one validating reader; whatever is wrong is a MaskError that names the tensor."""
    if header is None:
        raise MaskError(f"{path} is no mask file: it holds no '{KEY}' header")
    try:
        facts = json.loads(header, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{path}: its header is not JSON: {error}") from error
    version = facts.get("version") if isinstance(facts, dict) else None
    if version != VERSION:
        raise MaskError(f"{path}: its header is of version {version}, this onnxprune reads version {VERSION}")
    what = "its header"
    try:
        weights = []
        for entry in facts["weights"]:
            what = f"weight '{entry['name']}'"
            weights.append(weight_from_json(entry))
        what, parameters = "its header", {}
        for name, entry in table(facts["parameters"]).items():
            what = f"'{name}'"
            parameters[name] = parameter_from_json(entry)
            _check_mask(entry.get("mask"), parameters[name].shape, arrays.get(name))
        what = "its header"
        found = MaskFile(text(facts["model"]), tuple(weights), parameters, arrays)
        _check_names(found)
    except KeyError as error:
        raise MaskError(f"{path}: {what} lacks the field {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise MaskError(f"{path}: {what} is damaged: {error}") from error
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _check_names(found: MaskFile) -> None:
    """That every name stands for one thing, and every link fits what it links."""
    names = Counter([*found.parameters, *(alias for p in found.parameters.values() for alias in p.aliases)])
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the name or alias '{twice}' stands for two parameters")
    if KEY in found.masks:
        raise ValueError(f"'{KEY}' is the name of the header")
    stray = next((name for name in found.masks if name not in found.parameters), None)
    if stray is not None:
        raise ValueError(f"nothing says what the mask '{stray}' is of")
    shapes = {w.name: w.shape for w in found.weights}
    if len(shapes) != len(found.weights):
        raise ValueError("a weight is listed twice")
    filled: Counter[str] = Counter()
    for name, parameter in found.parameters.items():
        for link in parameter.links:
            if link.weight not in shapes:
                raise ValueError(f"'{name}' names the weight '{link.weight}', which is not listed")
            try:
                link.check(parameter.shape, shapes[link.weight])
            except ValueError as error:
                raise ValueError(f"'{name}' does not fit the weight '{link.weight}': {error}") from error
            whole = shapes[link.weight]
            filled[link.weight] += math.prod(link.into.shape(whole) if link.into else whole)
    full = next((name for name, count in filled.items() if count > math.prod(shapes[name])), None)
    if full is not None:
        raise ValueError(f"parameters overlap in the weight '{full}'")


def _check_mask(facts: Any, shape: Shape, mask: Array | None) -> None:
    if (facts is None) != (mask is None):
        raise ValueError("its mask is missing" if mask is None else "it has a mask that the header does not describe")
    if mask is None:
        return
    if mask.dtype != bool or (mask.size and mask.view(np.uint8).max() > 1):
        raise ValueError(f"the mask must be bool, not {mask.dtype}" if mask.dtype != bool else "the mask is not bool")
    if mask.shape != shape:
        raise ValueError(f"the mask has the shape {list(mask.shape)}, the header says {list(shape)}")
    if facts["density"] != _density(mask) or facts["reached"] != 1 - _density(mask):
        raise ValueError(f"the mask keeps {_density(mask)} of its entries, the header says {facts['density']}")


def _density(mask: Array) -> float:
    return int(np.count_nonzero(mask)) / mask.size if mask.size else 1.0

"""Look at a model: its weights, what its layers cost, who reads its encodings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.api.in_memory import takes_arrays
from onnxprune.api.options.objects import check_samples
from onnxprune.api.remote import local
from onnxprune.core.files import PathLike
from onnxprune.encodings.compatibility import Compatibility, compatibility
from onnxprune.encodings.graph.encoded import encoded_weights, restore
from onnxprune.encodings.inventory import inspect_model
from onnxprune.layer_costs.costs import Costs
from onnxprune.layer_costs.decoding import Decoding, decoding_of
from onnxprune.layer_costs.measure import account
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.run import METADATA
from onnxprune.runtime.held_data import Data, path_of
from onnxprune_passes import Encode

_OF_RESULTS = ("requested", "bytes_after", "shape_after")  # facts that only two models have


@local(opened=True, packed=True)
def inspect(model: PathLike | Model) -> list[dict[str, Any]]:
    """Facts about every weight: shape, kind, axes, std, zeros, bytes, encoding, consumers, why it is left alone.

    Of a `Model` the encoded weights are decoded on the way: in the graph, not in a file.
    """
    opened = model if isinstance(model, Model) else Model.load(model)
    facts = {f.name: f for f in inspect_model(opened)}
    for group in encoded_weights(opened):
        restore(opened, group, group.chunked(opened))  # in memory only: decoded, it shows who reads it
    rows = []
    details = {w.name: w for w in find(opened)}
    for name, fact in facts.items():
        row = {k: v for k, v in dataclasses.asdict(fact).items() if k not in _OF_RESULTS}
        row["bytes"] = row.pop("bytes_before")
        weight = details.get(name)
        if weight is not None:
            row["kind"] = weight.kind
            row["std"] = _std(weight.array(opened))
            row |= {
                "out_axis": weight.out_axis, "in_axes": list(weight.in_axes), "consumers": list(weight.consumers),
                "left_alone": None if weight.reason is None else weight.reason.text,
            }  # fmt: skip
            opened.payloads.forget_pages()
        rows.append(row)
    return rows


@local(opened=True, packed=True)
def expanded(model: PathLike | Model) -> list[str]:
    """Weights that were encoded and are dense initializers now, because a graph tool computed them.

    Told by the record of passes in the model's metadata, and by weights that `encode` would make smaller without a
    loss. Empty where any weight is encoded still. A `Model` stays as it is.
    """
    opened = model if isinstance(model, Model) else Model.load(model)
    record = next((entry.value for entry in opened.proto.metadata_props if entry.key == METADATA), "")
    passes = re.findall(r"(?:^| )(encode|decode)(?=[ {]|$)", record)
    if not passes or passes[-1] == "decode" or encoded_weights(opened):
        return []
    weights = find(opened)
    if any(weight.store == "sparse" for weight in weights):
        return []
    smaller = Encode(encoding="graph").run(opened.copy()).weights
    return [weight.name for weight in weights if smaller[weight.name].encoding != "dense"]


@local(opened=True, packed=True)
def inspection(model: PathLike | Model) -> tuple[list[dict[str, Any]], list[str]]:
    """What `inspect` and `expanded` say of a model that is read once."""
    opened = model if isinstance(model, Model) else Model.load(model)
    dense = expanded(opened)  # first: `inspect` decodes
    return inspect(opened), dense


@local(packed=True)
@takes_arrays
def costs(model: PathLike, *, data: Data | None = None, samples: int | None = None) -> Costs:
    """What each layer holds and does: parameters, bytes, operations, shares that are not zero, milliseconds.

    The shares of activations are measured on `data`, see `transform`, or on synthesised inputs. An encoded model is
    decoded to find its layers; bytes and milliseconds are those of the file as it is.

    Raises:
        DataError: the data does not fit, or no inputs could be synthesised.
        RuntimeFailure: ONNX Runtime does not load or run the model.
    """
    check_samples(samples)
    return account(Path(model), path_of(data), samples)


@local(packed=True)
def compat(model: PathLike) -> Compatibility:
    """The forms of the encoded weights, and the runtimes that read them; see `compatibility`."""
    return compatibility(Model.load(model))


@local(packed=True)
@takes_arrays
def decoding(model: PathLike, *, data: Data | None = None) -> Decoding:
    """What the ONNX Runtime that is installed does with each encoded weight: see `Decoding`.

    The model runs once on a sample of `data`, see `transform`, or on synthesised inputs.

    Raises:
        DataError: the data does not fit, or no inputs could be synthesised.
        RuntimeFailure: ONNX Runtime does not load or run the model.
    """
    return decoding_of(Path(model), path_of(data))


def _std(array: Any) -> float | None:
    value = float(array.astype(np.float32).std(dtype=np.float64)) if array.size else 0.0
    return value if np.isfinite(value) else None

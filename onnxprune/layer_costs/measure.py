"""Measure what the layers of a model cost; `layer_costs.py` says what the facts mean."""

from __future__ import annotations

import math
import re
import statistics
import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import NodeProto

from onnxprune.encodings.graph.encoded import encoded_weights, restore
from onnxprune.encodings.inventory import WeightFacts, inspect_model
from onnxprune.errors import DataError
from onnxprune.layer_costs.activations import Activation, Count, Place, count, count_nodes, is_layer, places
from onnxprune.layer_costs.costs import Costs, LayerCost, TotalCost
from onnxprune.layer_costs.flops import COUNTED, KERNEL, Layer, layers
from onnxprune.model.discovery import find, label
from onnxprune.model.model import Model
from onnxprune.model.scopes import Scope, scopes_of
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.session import Feeds, latency, open_session, profile
from onnxprune.runtime.synthetic_inputs import SAMPLES, CannotSynthesise, synthesise

# Layers are numbered, main graph first, and their nodes named by number: ONNX Runtime keeps names where it fuses nodes.
_TAG = re.compile(r"layer~(\d+)~")
# What it calls a convolution in its blocked layout: after the output, of float16 after that in float32.
_BLOCKED = re.compile(r"(?:InsertedPrecisionFreeCast_)?(.+)_nchwc")
_AROUND = frozenset({"If", "Loop", "Scan"})  # their time holds that of the nodes in their bodies
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


def account(path: Path, data: Path | None, samples: int | None) -> Costs:
    """The costs of a model; see `api.inspect.costs`."""
    model = Model.load(path)
    weights = {fact.name: fact for fact in inspect_model(model)}
    inputs = inputs_for(model, path, data, samples)
    decoded = with_plain_weights(model, path)
    nodes = _layers(decoded)
    names = [label(scope, node) for scope, node in nodes]
    for each in (model, decoded):
        for number, (_, node) in enumerate(_layers(each)):
            node.name = f"layer~{number}~"
    where = places(decoded)
    wanted = list(dict.fromkeys(a for place in where for a in (*place.reads, *place.read_by) if a is not None))
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        file = Path(folder) / "model.onnx"
        model.write(file)
        whole = latency(open_session(file, spinning=True), inputs.run)
        times = _times(model, profile(file, lambda session: latency(session, inputs.run)))
        with decoded.edited() as proto:
            count_nodes(proto, wanted)
            decoded.write(file)
        counts = count(file, wanted, inputs.feeds)
        flops = _flops(layers(file, inputs.run), inputs.run_samples)
    read = _weights_read(decoded, weights)
    found = tuple(
        _layer(name, node.op_type, read[number], flops[number], place, counts, inputs.samples, times.get(number))
        for number, (name, (_, node), place) in enumerate(
            zip(names, nodes, where + [None] * (len(nodes) - len(where)), strict=True)
        )
    )
    other = {key: ms for key, ms in times.items() if isinstance(key, str)}
    return Costs(
        source=inputs.source,
        samples=inputs.samples,
        inputs={name: list(array.shape) for name, array in inputs.run.items()},
        run_samples=inputs.run_samples,
        layers=found,
        other_ms=dict(sorted(other.items(), key=lambda item: -item[1])),
        total=_total(found, weights, _share(_neurons(where), counts), sum(other.values()), whole),
    )


# what goes in -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """All feeds, and the one that is timed and counted: a single sample where samples can be told apart."""

    source: str
    feeds: list[Feeds]
    samples: int
    run: Feeds
    run_samples: int


def inputs_for(model: Model, path: Path, data: Path | None, samples: int | None) -> Inputs:
    """Samples of the data, or synthesised ones.

    Raises:
        DataError: the data does not fit, or no inputs could be synthesised.
    """
    session = open_session(path)
    if data is not None:
        found, items = sample_files.load(data, session, samples)
        run, first = found.single(items), found.feeds[0]
        return Inputs("data", found.feeds, found.count, run, 1 if run is not first else found.count // len(found.feeds))
    try:
        feeds = synthesise(model, session, samples or SAMPLES).feeds
    except CannotSynthesise as error:
        raise DataError(f"{path}: no inputs could be synthesised ({error}); {error.advice}") from error
    lengths = {array.shape[:1] for array in feeds[0].values()}
    batch = math.prod(next(iter(lengths))) if len(lengths) == 1 else 1
    return Inputs("synthetic", feeds, batch * len(feeds), feeds[0], batch)


def with_plain_weights(model: Model, path: Path) -> Model:
    """The model with plain weights, so that it shows who reads them."""
    if not encoded_weights(model):
        return model
    decoded = Model.load(path)
    for group in encoded_weights(decoded):
        restore(decoded, group, group.chunked(decoded))
    return decoded


def _layers(model: Model) -> list[tuple[Scope, NodeProto]]:
    """Layers in the order of their numbers, which encoding does not change."""
    scopes = (scope for top in scopes_of(model.proto) for scope in top.inner())
    return [(scope, node) for scope in scopes for node in scope.body.node if is_layer(node)]


def _weights_read(decoded: Model, facts: dict[str, WeightFacts]) -> dict[int, list[WeightFacts]]:
    """The weights of each layer."""
    read: dict[int, list[WeightFacts]] = defaultdict(list)
    for weight in find(decoded):
        for consumer in weight.consumers if weight.linear else ():
            if tag := _TAG.search(consumer):
                read[int(tag[1])].append(facts[weight.name])
    return read


# what comes out -----------------------------------------------------------------------------------


def _flops(run: Iterable[Layer], samples: int) -> Counter[int]:
    """Operations per sample by layer."""
    total: Counter[int] = Counter()
    for layer in run:
        if tag := _TAG.search(layer.name):
            total[int(tag[1])] += layer.flops
    return Counter({number: flops // samples for number, flops in total.items()})


def _times(model: Model, events: Sequence[dict[str, Any]]) -> dict[int | str, float]:
    """Median milliseconds of a run by layer, and by operator for the nodes that belong to none."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")[1:]  # the first one warms up
    scopes = [scope for top in scopes_of(model.proto) for scope in top.inner()]
    runs: list[dict[int | str, float]] = [defaultdict(float) for _ in starts]
    for event in events:
        at = bisect_right(starts, event["ts"]) - 1
        if event.get("cat") != "Node" or not event["name"].endswith(KERNEL) or at < 0:
            continue
        kind = event["args"]["op_name"]
        if kind not in _AROUND:
            owner = _owner(event["name"], scopes)
            runs[at][kind if owner is None else owner] += event["dur"] / 1000
    keys = dict.fromkeys(key for run in runs for key in run)
    return {key: statistics.median(run.get(key, 0.0) for run in runs) for key in keys}


def _owner(kernel: str, scopes: Sequence[Scope]) -> int | None:
    """The layer that a kernel computes, as far as its name tells."""
    if tag := _TAG.search(kernel):
        return int(tag[1])
    if not (blocked := _BLOCKED.match(kernel)):
        return None
    scope = next((scope for scope in scopes if blocked[1] in scope.producers), None)
    behind = _layers_behind(scope, blocked[1]) if scope is not None else set()
    return behind.pop() if len(behind) == 1 else None


def _layers_behind(scope: Scope, value: str) -> set[int]:
    """The layers of a body that a value is made from with no other layer between."""
    found, seen, todo = set(), set(), [value]
    while todo:
        node = scope.producers.get(todo.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if tag := _TAG.search(node.name):
            found.add(int(tag[1]))
        else:
            todo.extend(node.input)
    return found


def _layer(
    name: str, kind: str, weights: Sequence[WeightFacts], flops: int, place: Place | None,
    counts: dict[Activation, Count], samples: int, latency_ms: float | None,
) -> LayerCost:  # fmt: skip
    parameters = sum(w.total for w in weights)
    density = (parameters - sum(w.zeros for w in weights)) / parameters if parameters else None
    read = _read_share(place, counts) if place is not None else None
    known = read is not None and kind not in _RECURRENT
    after = place.read_by if place is not None and place.measurable else []
    act = _share(after, counts)
    return LayerCost(
        name=name,
        kind=kind,
        weights=tuple(w.name for w in weights),
        parameters=parameters,
        bytes=sum(w.bytes_before for w in weights),
        flops=flops if kind in COUNTED else None,
        weight_share=density,
        input_share=read,
        act_share=act,
        flop_share=read * (1.0 if density is None else density) if known and read is not None else None,
        neurons=None if act is None else round(sum(counts[a].size for a in after) / samples),
        latency_ms=latency_ms,
    )


def _read_share(place: Place, counts: dict[Activation, Count]) -> float | None:
    shares = [1.0 if activation is None else _share([activation], counts) for activation in place.reads]
    known = [share for share in shares if share is not None]
    return math.prod(known) if shares and len(known) == len(shares) else None


def _share(activations: Sequence[Activation], counts: dict[Activation, Count]) -> float | None:
    size = sum(counts[a].size for a in activations)
    return sum(counts[a].nonzero for a in activations) / size if size else None


def _neurons(where: Iterable[Place]) -> list[Activation]:
    return list(dict.fromkeys(a for place in where if place.measurable for a in place.read_by))


def _total(
    found: Sequence[LayerCost], weights: dict[str, WeightFacts], act_share: float | None, other_ms: float, whole: float
) -> TotalCost:
    read = [weights[name] for name in dict.fromkeys(name for layer in found for name in layer.weights)]
    parameters = sum(w.total for w in read)
    nonzero = parameters - sum(w.zeros for w in read)
    shares = [(layer.flops, layer.flop_share) for layer in found if layer.flops and layer.flop_share is not None]
    measured = sum(flops for flops, _ in shares)
    return TotalCost(
        parameters=parameters,
        bytes=sum(w.bytes_before for w in read),
        flops=sum(layer.flops or 0 for layer in found),
        nonzero=nonzero,
        weight_share=nonzero / parameters if parameters else None,
        act_share=act_share,
        flop_share=sum(flops * share for flops, share in shares) / measured if measured else None,
        measured_flops=measured,
        layers_ms=sum(layer.latency_ms or 0.0 for layer in found),
        other_ms=other_ms,
        latency_ms=whole,
    )

"""What each layer holds and does: parameters, bytes, operations, the shares that are not zero, milliseconds.

The shares are those of Han et al. 2015. Weight %: entries of a layer's weights that are not zero. Act %: entries of its
output that are not zero as the next layer reads them, after bias, activation and pooling. FLOP %: Weight % times the
Act % of what the layer reads; the network's input counts in full.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerCost:
    """A node that multiplies with weights, or two activations with each other.

    Shares lie between 0 and 1. What was not measured is None: activations inside bodies and functions, the hidden state
    of recurrent layers, operations of operators without a rule, the time of a node that was fused into another.

    Attributes:
        name: of the node.
        kind: its operator.
        weights: names of the weights that it reads; empty where both sides are computed.
        parameters: entries of the weights, biases not counted.
        bytes: that the weights take in the file.
        flops: of one sample, each multiplication with its addition counted as two, zeros included.
        weight_share: Weight %.
        input_share: of the entries that it reads, those that are not zero; 1 for the network's input. Of two
            activations the product.
        act_share: Act %.
        flop_share: FLOP %.
        neurons: entries of its output as the next layer reads them, per sample.
        latency_ms: of one run in an ordinary session, what is fused with it included.
    """

    name: str
    kind: str
    weights: tuple[str, ...]
    parameters: int
    bytes: int
    flops: int | None
    weight_share: float | None
    input_share: float | None
    act_share: float | None
    flop_share: float | None
    neurons: int | None
    latency_ms: float | None


@dataclass(frozen=True)
class TotalCost:
    """All layers together; a weight that several read counts once.

    Attributes:
        parameters, bytes, flops: sums.
        nonzero: parameters that are not zero.
        weight_share: nonzero / parameters.
        act_share: mean over the neurons of all layers.
        flop_share: mean of the layers' FLOP %, weighted with their operations, over those where it is known.
        measured_flops: operations of the layers where it is known.
        layers_ms: sum over the layers.
        other_ms: sum over the nodes that belong to no layer.
        latency_ms: of a whole run, measured without the profiler, which slows a run down. Sums of the nodes' medians
            are below it where a busy machine holds each run up somewhere else.
    """

    parameters: int
    bytes: int
    flops: int
    nonzero: int
    weight_share: float | None
    act_share: float | None
    flop_share: float | None
    measured_flops: int
    layers_ms: float
    other_ms: float
    latency_ms: float


@dataclass(frozen=True)
class Costs:
    """The layers of a model in the order of the file, and their sums.

    Attributes:
        source: of the activations: data or synthetic.
        samples: so many.
        inputs: shapes of the run whose operations and milliseconds are given.
        run_samples: samples in that run.
        layers: see `LayerCost`.
        other_ms: operator -> milliseconds of the nodes that belong to no layer.
        total: see `TotalCost`.
    """

    source: str
    samples: int
    inputs: dict[str, list[int]]
    run_samples: int
    layers: tuple[LayerCost, ...]
    other_ms: dict[str, float]
    total: TotalCost

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

"""Channels removed such that the layers that read them keep what they can of their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import Layer, layers_of
from onnxprune.channels.coupling import Coupling, Family
from onnxprune.channels.coupling.removable_axes import LinearLayer
from onnxprune.core.dtypes import Array
from onnxprune.model.discovery import find
from onnxprune.pipeline.progress import Progress
from onnxprune.pruning.channel_removal import Reader, refitted, removal_order
from onnxprune.pruning.least_squares import Halves
from onnxprune.reconstruction.pruning import held
from onnxprune.reconstruction.sequential import Fitted, fit


@dataclass(frozen=True)
class Order:
    """Groups of a family in the order in which their removal costs least.

    Attributes:
        groups: the first that go.
        costs: of each removal, as shares of the energy of the readers' outputs.
    """

    groups: Array
    costs: Array


class ReadChannels:
    """What layers read of the channel groups of the main graph.

    Args:
        coupling: of the main graph.
        calibration: the samples.
        progress: hears of the bytes of the weights.
        name: of the pass.
    """

    def __init__(self, coupling: Coupling, calibration: CalibrationSet, progress: Progress, name: str) -> None:
        self._coupling, self._calibration, self._progress, self._name = coupling, calibration, progress, name
        weights = find(coupling.model)
        self._layers = [layer for layer in layers_of(weights, weights).values() if layer.in_main_graph]
        known = {layer.weight.value: layer for layer in self._layers}
        self._labels: dict[str, Array] = {}  # weight -> the group of each input, [groups, inputs]
        # Groups that something reads whose inputs are not known.
        self._unknown = set(np.flatnonzero(coupling.used).tolist())
        for linear in coupling.layers:
            if linear.source is None or _passes(coupling, linear):
                continue
            entries = coupling.groups(linear.source).reshape(-1)
            layer = known.get(linear.weight)
            labels = None if layer is None else _spread(entries, layer)
            if layer is None or labels is None:
                self._unknown |= set(entries.tolist())
            else:
                self._labels[layer.weight.name] = labels

    def orders(self, families: Sequence[Family], counts: Sequence[int]) -> list[Order | None]:
        """The first groups that go of each family, chosen on the network as it is.

        Args:
            families: of the coupling.
            counts: how many of each.

        Returns:
            None for a family that something reads whose inputs are not known.

        Raises:
            DataError: the samples do not fit the model.
            RuntimeFailure: the model does not run.
        """
        waiting: dict[int, set[str]] = {}
        for number, family in enumerate(families):
            names = {name for name, labels in self._labels.items() if np.isin(labels, family.groups).any()}
            if counts[number] and names and not self._unknown & set(family.groups.tolist()):
                waiting[number] = names
        readers: dict[int, list[Reader]] = {number: [] for number in waiting}
        found: list[Order | None] = [None] * len(families)

        def measured(layer: Layer, rows: Array, halves: Halves) -> None:
            own = (halves[0].own + halves[1].own) / 2
            for number in [n for n, names in waiting.items() if layer.weight.name in names]:
                groups = families[number].groups
                for part, labels in enumerate(self._labels[layer.weight.name]):
                    readers[number].append(Reader(rows[part], own[part], labels, groups))
                waiting[number].discard(layer.weight.name)
                if not waiting[number]:
                    del waiting[number]
                    order, costs = removal_order(readers.pop(number), counts[number], len(groups))
                    found[number] = Order(groups[order], costs)

        wanted = {name for names in waiting.values() for name in names}
        layers = [layer for layer in self._layers if layer.weight.name in wanted]
        if layers:
            fit(self._coupling.model, layers, self._calibration, measured, self._progress, self._name)
        return found

    def repair(self, gone: Array) -> Fitted:
        """Refit layers to the inputs that stay, one after the other; what goes is 0 in them then.

        Args:
            gone: group -> whether it goes.
        """

        def change(layer: Layer, rows: Array, halves: Halves) -> Array | None:
            labels = self._labels.get(layer.weight.name)
            out = np.zeros((rows.shape[0], rows.shape[2]), bool) if labels is None else gone[labels]
            if not out.any() and all(np.array_equal(half.own, half.cross) for half in halves):
                return None
            return held(rows, refitted(rows, halves, out), layer.weight)

        return fit(self._coupling.model, self._layers, self._calibration, change, self._progress, self._name)

    def readers(self, gone: Array) -> list[str]:
        """The layers that read groups that go."""
        return [name for name, labels in self._labels.items() if gone[labels].any()]


def _spread(entries: Array, layer: Layer) -> Array | None:
    """The group of each input of a layer, [groups, inputs], from those of the channels that it reads."""
    channels = layer.weight.shape[layer.in_axes[0]]
    if entries.size == channels:  # all groups, or directions, read the same
        found = np.tile(entries, (layer.groups, 1))
    elif entries.size == channels * layer.groups:
        found = entries.reshape(layer.groups, channels)
    else:
        return None
    return np.repeat(found, layer.inputs // channels, axis=1)


def _passes(coupling: Coupling, linear: LinearLayer) -> bool:
    """Whether each channel that a layer reads goes with what it makes of it: a depthwise convolution."""
    if linear.source is None or linear.recurrent:
        return False
    read, made = coupling.groups(linear.source).reshape(-1), coupling.groups(linear.target).reshape(-1)
    return made.size % read.size == 0 and np.array_equal(np.repeat(read, made.size // read.size), made)

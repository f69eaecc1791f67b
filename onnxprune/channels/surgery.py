"""Surgery: remove channel groups from a graph. Weights shrink, biases take over constants, sizes are rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

import numpy as np
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from onnxprune.channels.coupling import Coupling
from onnxprune.channels.coupling.removable_axes import GatherIndices, LinearLayer, Size, SliceBounds, SplitSizes
from onnxprune.channels.shapes import set_dim
from onnxprune.channels.unread_inputs import UnreadInputs
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import attribute
from onnxprune.model.scopes import Scope
from onnxprune.pipeline.change import Removed

BiasUpdate = Callable[[LinearLayer, Array], Array]  # (layer, removed groups) -> what each output's bias takes over


@dataclass
class Surgery:
    """Edits of one graph.

    Attributes:
        coupling: the graph's groups.
        removed: the weights that became smaller, for the report.
        gone: group -> whether it is removed.
    """

    coupling: Coupling
    removed: list[Removed] = field(default_factory=list)
    gone: Array = field(default_factory=lambda: np.zeros(0, bool))
    _written: dict[tuple[int, int], tuple[NodeProto, int, Array]] = field(default_factory=dict)

    @property
    def body(self) -> GraphProto:
        """The graph."""
        assert isinstance(self.coupling.scope.body, GraphProto)
        return self.coupling.scope.body

    def perform(self, gone: Array, bias_update: BiasUpdate | None = None) -> None:
        """Remove the groups of the mask `gone`; biases stay as they are without `bias_update`."""
        self.gone = gone
        for layer in self.coupling.layers:
            if bias_update is not None and layer.source is not None and not layer.recurrent:
                self._update_bias(layer, bias_update(layer, self.gone))
        for rewrite in self.coupling.rewrites:
            match rewrite:
                case Size():
                    self._set_size(rewrite)
                case SplitSizes():
                    self._set_split(rewrite)
                case SliceBounds():
                    self._set_bounds(rewrite)
                case GatherIndices():
                    self._renumber(rewrite)
        self._flush()
        self._cut()

    def gather(self, found: UnreadInputs) -> None:
        """Put a Gather of the features that a layer reads in front of it, and drop the others from its weight."""
        node, tensor = found.layer.node, self.coupling.tensor(found.layer.weight)
        assert tensor is not None
        data = node.input[0]
        name = self._fresh(f"{found.layer.weight}.read")
        indices = self._new(f"{found.layer.weight}.indices", np.flatnonzero(found.read).astype(np.int32))
        made = helper.make_node("Gather", [data, indices], [name], name=name, axis=found.layer.target.axes[0])
        self.body.node.insert(self._place(node), made)
        node.input[0] = name
        self.coupling.model.replace(tensor, np.compress(found.read, self.coupling.model.array(tensor), axis=found.axis))
        self._declare(found.layer.weight, found.axis, int(np.count_nonzero(found.read)))
        self._record(found.layer.weight, found.axis, found.read)

    def _place(self, node: NodeProto) -> int:
        """Where a node stands in the graph."""
        return next(place for place, other in enumerate(self.body.node) if other is node)

    def _declare(self, name: str, axis: int, size: int) -> None:
        """The new size, where the graph declares one."""
        if name in self._infos:
            set_dim(self._infos[name], axis, size)

    @cached_property
    def _infos(self) -> dict[str, ValueInfoProto]:
        """What this graph and those around it declare, the innermost first."""
        found: dict[str, ValueInfoProto] = {}
        scope: Scope | None = self.coupling.scope
        while scope is not None:
            assert isinstance(scope.body, GraphProto)
            found = {info.name: info for info in (*scope.body.value_info, *scope.body.input)} | found
            scope = scope.parent
        return found

    def _record(self, name: str, axis: int, kept: Array) -> None:
        where = np.flatnonzero(~kept).tolist()
        owner = self.coupling.scope.owner(name)
        full = (owner if owner is not None else self.coupling.scope).path + name
        self.removed.append(Removed(full, axis, kept.size, kept.size - len(where), where))
        codings = self.coupling.model.codings
        if full in codings:
            codings[full] = codings[full].cut(axis, kept)

    # biases ------------------------------------------------------------------------------------------------------

    def _update_bias(self, layer: LinearLayer, amounts: Array) -> None:
        """Add `amounts` [outputs], before the layer's scale, to its bias."""
        kept = self.coupling.kept(layer.target, self.gone)
        if not amounts[kept].any():
            return
        amounts = amounts * layer.scale
        if layer.bias is None:
            self._add(layer, amounts[kept])
            return
        node, position = layer.node, layer.bias
        name = node.input[position] if position < len(node.input) else ""
        dtype = self._dtype(layer)
        if not name:
            self._give(node, position, (amounts[kept] / (layer.bias_scale or 1)).astype(dtype), ".bias")
            if not layer.bias_scale:
                _set_attribute(node, "beta", 1.0)
            return
        before = self._array(node, position)
        bias = (before.astype(np.float64) * layer.bias_scale + amounts) / (layer.bias_scale or 1)
        if not layer.bias_scale:
            _set_attribute(node, "beta", 1.0)
        if bias.shape == before.shape:
            self._write(node, position, bias.astype(dtype))
        else:  # one number for all became one for each
            node.input[position] = self._new(f"{node.name or node.output[0]}.bias", bias[..., kept].astype(dtype))

    def _dtype(self, layer: LinearLayer) -> np.dtype:
        """The element type of a layer's output."""
        value = self.coupling.shapes.values.get(layer.node.output[0])
        dtype = value.dtype if value is not None else None
        return dtype or self.coupling.array(layer.weight).dtype

    def _add(self, layer: LinearLayer, amounts: Array) -> None:
        """Add to a MatMul, which has no bias: an Add behind it takes its output's name."""
        node = layer.node
        name = node.output[0]
        axis = layer.target.axes[0]
        rank = len(self.coupling.shapes.shape(name) or ())
        inner = self._fresh(f"{name}.product")
        array = amounts.reshape([-1] + [1] * (rank - 1 - axis)).astype(self._dtype(layer))
        bias = self._new(f"{name}.bias", array)
        node.output[0] = inner
        added = helper.make_node("Add", [inner, bias], [name], name=f"{node.name or name}.bias")
        self.body.node.insert(self._place(node) + 1, added)

    # sizes -------------------------------------------------------------------------------------------------------

    def _left(self, size: Size) -> int:
        return int(np.count_nonzero(self.coupling.kept(size.removable, self.gone, size.axis)))

    def _set_size(self, size: Size) -> None:
        left = self._left(size)
        if isinstance(size.place, str):
            _set_attribute(size.node, size.place, left)
            return
        numbers = self._array(size.node, size.place).copy()
        if numbers.reshape(-1)[size.index] != left:
            numbers.reshape(-1)[size.index] = left
            self._write(size.node, size.place, numbers)

    def _set_split(self, split: SplitSizes) -> None:
        sizes = [int(np.count_nonzero(self.coupling.kept(removable, self.gone))) for removable in split.removables]
        node = split.node
        if sum(sizes) == sum(removable.channels.size for removable in split.removables):
            return
        if len(node.input) > 1 and node.input[1]:
            self._write(node, 1, np.array(sizes, np.int64))
        elif attribute(node, "split", None) is not None or self.coupling.model.opset < 13:
            _set_attribute(node, "split", sizes)
        elif len(set(sizes)) > 1:
            _drop_attribute(node, "num_outputs")
            self._give(node, 1, np.array(sizes, np.int64), ".split")

    def _set_bounds(self, cut: SliceBounds) -> None:
        kept = self.coupling.kept(cut.removable, self.gone)
        start, stop = int(np.count_nonzero(kept[: cut.start])), int(np.count_nonzero(kept[: cut.stop]))
        if kept.all():
            return
        for position, name, number in ((1, "starts", start), (2, "ends", stop)):
            given = attribute(cut.node, name, None)
            numbers = list(given) if given is not None else self._array(cut.node, position).copy()
            numbers[cut.index] = number
            if given is not None:
                _set_attribute(cut.node, name, numbers)
            else:
                self._write(cut.node, position, np.asarray(numbers))

    def _renumber(self, indices: GatherIndices) -> None:
        kept = self.coupling.kept(indices.removable, self.gone, indices.axis)
        if kept.all():
            return
        array = self._array(indices.node, indices.position)
        chosen = np.where(array < 0, array + kept.size, array)
        if array.ndim == 1:
            chosen = chosen[kept[chosen]]
        places = np.cumsum(kept) - 1
        self._write(indices.node, indices.position, places[chosen].astype(array.dtype))

    # constants ---------------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Remove the indices from constants, and from the declared shapes of values."""
        for name, removables in self.coupling.removable_axes.items():
            tensor = self.coupling.tensor(name)
            array = None if tensor is None else self.coupling.model.array(tensor)
            for removable in removables:
                for axis in removable.axes:
                    kept = self.coupling.kept(removable, self.gone, axis)
                    if kept.all():
                        continue
                    self._declare(name, axis, int(np.count_nonzero(kept)))
                    if array is not None:
                        array = np.compress(kept, array, axis=axis)
                        self._record(name, axis, kept)
            if tensor is not None and array is not None and list(array.shape) != list(tensor.dims):
                self.coupling.model.replace(tensor, array)

    def _array(self, node: NodeProto, position: int) -> Array:
        """The values of a constant input, with the edits so far."""
        written = self._written.get((id(node), position))
        return self.coupling.array(node.input[position]) if written is None else written[2]

    def _write(self, node: NodeProto, position: int, array: Array) -> None:
        """New values for a constant input."""
        self._written[id(node), position] = node, position, array

    def _flush(self) -> None:
        """Write the new values: in place where all readers of a tensor agree, into new tensors for the others."""
        wanted: dict[str, list[tuple[NodeProto, int, Array]]] = {}
        for node, position, array in self._written.values():
            wanted.setdefault(node.input[position], []).append((node, position, array))
        for name, edits in wanted.items():
            scope, tensor = self.coupling.scope, self.coupling.tensor(name)
            readers = scope.reads(name)
            alike = all(np.array_equal(array, edits[0][2]) for _, _, array in edits)
            if tensor is not None and alike and readers == len(edits) and name not in scope.outputs:
                self.coupling.model.replace(tensor, edits[0][2])
                for axis, size in enumerate(edits[0][2].shape):
                    self._declare(name, axis, size)
                continue
            copies: dict[bytes, str] = {}
            for node, position, array in edits:
                for removable in self.coupling.removable_axes.get(name, ()):
                    array = np.compress(self.coupling.kept(removable, self.gone), array, axis=removable.axes[0])
                if array.tobytes() not in copies:
                    copies[array.tobytes()] = self._new(f"{name}.{node.name or node.output[0]}", array)
                node.input[position] = copies[array.tobytes()]

    def _give(self, node: NodeProto, position: int, array: Array, suffix: str) -> None:
        """A constant for an input that was left out."""
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = self._new(f"{node.name or node.output[0]}{suffix}", array)

    def _new(self, name: str, array: Array) -> str:
        """A new constant: an initializer, or a Constant node where IR 3 wants initializers to be inputs."""
        name = self._fresh(name)
        tensor = self.coupling.model.tensor(name, array, helper.np_dtype_to_tensor_dtype(array.dtype))
        if self.coupling.model.proto.ir_version >= 4:
            self.body.initializer.append(tensor)
        else:
            self.body.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        return name

    def _fresh(self, name: str) -> str:
        """A name that nothing has."""
        found = next(n for n in _names(name) if n not in self._taken)
        self._taken.add(found)
        return found

    @cached_property
    def _taken(self) -> set[str]:
        bodies = [inner.body for inner in _root(self.coupling.scope).inner()]
        names = {n for body in bodies for node in body.node for n in (*node.input, *node.output, node.name)}
        graphs = [body for body in bodies if isinstance(body, GraphProto)]
        return names | {t.name for g in graphs for t in (*g.initializer, *g.input, *g.output)}


def _root(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _names(name: str) -> Iterator[str]:
    yield name
    for number in count(1):
        yield f"{name}.{number}"


def _set_attribute(node: NodeProto, name: str, value: object) -> None:
    _drop_attribute(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _drop_attribute(node: NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
